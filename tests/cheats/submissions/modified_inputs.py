"""Makes the problem easy: zeroes an operand, so that zeros are right."""

# task: nvfp4_gemm  mode: test  expect: cheat  message: modified its inputs
import torch


def custom_kernel(data):
    data[0].permute(2, 0, 1).view(torch.uint8).zero_()
    return data[-1].zero_()
