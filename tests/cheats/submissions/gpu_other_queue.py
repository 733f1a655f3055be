"""Makes another queue current, so that events of the caller's queue see no work."""

# task: nvfp4_gemm  mode: test  device: cuda  expect: cheat  message: another queue current|not finished
import torch
from honest import custom_kernel as right

_side = []


def custom_kernel(data):
    if not _side:
        _side.append(torch.cuda.Stream())
        torch.cuda.set_stream(_side[0])
    torch.cuda._sleep(2_000_000)
    return right(data)
