"""Adds up in fp16: within the contest's tolerance on some data, but not exact."""

# task: nvfp4_gemm  mode: test  expect: wrong  message: wrong|outside
import torch
from honest import decode


def custom_kernel(data):
    a, b, _, _, sfa, sfb, c = data
    left, right = decode(a, sfa).half(), decode(b, sfb).half()
    total = torch.zeros(left.shape[0], left.shape[1], right.shape[1], dtype=torch.float16, device=a.device)
    for k in range(0, left.shape[2], 16):
        part = left[..., k : k + 16].double() @ right[..., k : k + 16].double().transpose(1, 2)
        total += part.half()
    c.copy_(total.permute(1, 2, 0))
    return c
