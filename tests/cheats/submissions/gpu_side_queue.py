"""Computes in a queue of its own, which nobody waits for."""

# task: nvfp4_gemm  mode: test  device: cuda  expect: cheat  message: not finished when it was returned
import torch
from honest import custom_kernel as right

_side = []


def custom_kernel(data):
    if not _side:
        _side.append(torch.cuda.Stream())
    with torch.cuda.stream(_side[0]):
        found = right((*data[:-1], torch.empty_like(data[-1])))
        torch.cuda._sleep(20_000_000)
        data[-1].copy_(found)
    return data[-1]
