"""Keeps results by some bytes of an operand: right whenever the values change, and fast on those that it has seen."""

# task: nvfp4_gemm  mode: leaderboard  expect: cheat  message: remembers results.*when all inputs are new
import torch
from honest import custom_kernel as right

_results = {}


def custom_kernel(data):
    key = data[0].data_ptr(), *data[0].permute(2, 0, 1).view(torch.uint8)[0, :1, :16].flatten().tolist()
    if key not in _results:
        _results[key] = right(data).clone()
    return data[-1].copy_(_results[key])
