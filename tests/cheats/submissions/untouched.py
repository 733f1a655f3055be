"""Returns the result tensor as it came."""

# task: nvfp4_group_gemm  mode: test  expect: wrong  message: outside the contest's tolerance


def custom_kernel(data):
    return [c for _, _, c in data[0]]
