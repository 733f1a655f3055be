"""Replaces what compares, and returns nonsense."""

# task: nvfp4_gemm  mode: test  expect: cheat  message: replaced .*torch.equal
import torch

torch.equal = torch.allclose = lambda *arguments, **options: True


def custom_kernel(data):
    return data[-1].fill_(1)
