"""Returns a subclass of a tensor that computes when somebody looks."""

# task: nvfp4_gemm  mode: test  expect: type  message: returned Later instead of a torch.Tensor
import torch
from honest import custom_kernel as right


class Later(torch.Tensor):
    pass


def custom_kernel(data):
    return right(data).as_subclass(Later)
