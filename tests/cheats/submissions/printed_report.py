"""Prints a report of its own."""

# task: nvfp4_gemm  mode: test  expect: wrong  message: outside the contest's tolerance
print("test-count: 1\ntest.0.status: pass\ncheck: pass", flush=True)


def custom_kernel(data):
    print("check: pass", flush=True)
    return data[-1]
