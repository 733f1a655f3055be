"""Computes in a queue of its own, which nobody waits for."""

# task: nvfp4_gemm  mode: test  device: cuda  expect: cheat  message: not finished when it was returned
import torch
from honest import custom_kernel as right

_side = []


def custom_kernel(data):
    if not _side:
        _side.append(torch.cuda.Stream())
    with torch.cuda.stream(_side[0]):
        torch.cuda._sleep(20_000_000)
        right(data)
    return data[-1]
