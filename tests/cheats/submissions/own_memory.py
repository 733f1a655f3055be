"""Honest, in memory of its own and other strides than c's."""

from honest import multiply


def custom_kernel(data):
    a, b, _, _, sfa, sfb, _ = data
    return multiply(a, sfa, b, sfb).half().permute(1, 2, 0).contiguous()
