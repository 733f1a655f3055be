"""Returns zeros."""

# task: nvfp4_gemm  mode: test  expect: wrong  message: outside the contest's tolerance


def custom_kernel(data):
    return data[-1].zero_()
