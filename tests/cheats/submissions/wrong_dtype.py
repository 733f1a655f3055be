"""Returns float32, which the contest never compares."""

# task: nvfp4_gemm  mode: test  expect: type  message: dtype: returned torch.float32
from honest import custom_kernel as right


def custom_kernel(data):
    return right(data).float()
