"""Takes block scales as whole numbers, which those of the contest's GEMM data are."""

# task: nvfp4_gemm  mode: test  expect: wrong  message: data:  official: passes
import torch
from honest import custom_kernel as right


def _whole(scales):
    return scales.float().floor().to(torch.float8_e4m3fn)


def custom_kernel(data):
    a, b, sfa, sfb, tiled_a, tiled_b, c = data
    return right((a, b, sfa, sfb, _whole(tiled_a), _whole(tiled_b), c))
