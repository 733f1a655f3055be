"""Right and plain, on any device: the exact sums in float64. What the cheating submissions pretend to be."""

import torch

_CODES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
_CODES = torch.cat([_CODES, -_CODES])


def decode(codes, scales):
    """[rows, K/2, L] and 6-D scales -> float64 [L, rows, K]."""
    data = codes.permute(2, 0, 1).contiguous().view(torch.uint8)
    values = _CODES.to(data.device)[torch.stack([data & 15, data >> 4], -1).long()].flatten(-2)
    order = scales.view(torch.uint8).permute(5, 2, 1, 0, 4, 3).contiguous()
    count, rest_m, _, _, rest_k, _ = order.shape
    factors = order.view(torch.float8_e4m3fn).float().double().reshape(count, rest_m * 128, rest_k * 4)
    factors = factors[:, : values.shape[1], : values.shape[2] // 16]
    return values * factors.repeat_interleave(16, -1)


def multiply(a, sfa, b, sfb):
    """float64 [L, M, N]."""
    return decode(a, sfa) @ decode(b, sfb).transpose(1, 2)


def gemm(data):
    a, b, _, _, sfa, sfb, c = data
    c.copy_(multiply(a, sfa, b, sfb).permute(1, 2, 0).half())
    return c


def gemv(data):
    a, b, _, _, sfa, sfb, c = data
    c.copy_(multiply(a, sfa, b, sfb)[..., :1].permute(1, 2, 0).half())
    return c


def dual_gemm(data):
    a, b1, b2, _, _, _, sfa, sfb1, sfb2, c = data
    gate, up = multiply(a, sfa, b1, sfb1), multiply(a, sfa, b2, sfb2)
    c.copy_((gate / (1 + torch.exp(-gate)) * up).permute(1, 2, 0).half())
    return c


def group_gemm(data):
    abc, _, tiled, _ = data
    for (a, b, c), (sfa, sfb) in zip(abc, tiled, strict=True):
        c.copy_(multiply(a, sfa, b, sfb).permute(1, 2, 0).half())
    return [c for _, _, c in abc]


def custom_kernel(data):
    if isinstance(data[0], list):
        return group_gemm(data)
    if len(data) == 10:
        return dual_gemm(data)
    return gemv(data) if data[-1].shape[1] == 1 else gemm(data)
