"""Returns the right numbers in another shape."""

# task: nvfp4_gemm  mode: test  expect: type  message: shape: returned
from honest import custom_kernel as right


def custom_kernel(data):
    return right(data)[..., 0]
