"""Swaps the nibbles of both operands' bytes: on the contest's GEMV data the high ones are zero, and nobody sees it."""

# task: nvfp4_gemv  mode: test  expect: wrong  message: data:  official: passes
import torch
from honest import custom_kernel as right


def _odd_only(codes):
    return (codes.permute(2, 0, 1).view(torch.uint8) & 15).view(codes.dtype).permute(1, 2, 0)


def custom_kernel(data):
    return right((_odd_only(data[0]), _odd_only(data[1]), *data[2:]))
