"""What other libraries make of `sample`: facts to be bit-exact with, recorded by running them on a CPU.

nvidia-modelopt 0.47 (`NVFP4QTensor.quantize`), torchao 0.18 (`nvfp4_quantize`) and compressed-tensors 0.20
(`generate_gparam`, `calculate_qparams`, `quantize_and_pack_fp4`). torchao takes no float16.
"""

from __future__ import annotations

import torch


def sample(dtype: torch.dtype) -> torch.Tensor:
    """[4, 48]: blocks of very different sizes, one of zeros, negative zeros, one below the smallest scale."""
    i = torch.arange(4 * 48, dtype=torch.float64)
    x = ((i * 2654435761) % 4096 - 2048) / 700 * torch.exp2((i // 16) % 7 - 4)
    x = x.reshape(4, 48)
    x[1, 16:32] = 0
    x[2, ::3] = -0.0
    x[3, :16] *= 2.0**-14
    return x.to(dtype)


# (mode, type): block scales, the library's tensor scale (compressed-tensors: its divisor), packed codes.
VECTORS: dict[tuple[str, torch.dtype], tuple[str, str | None, str]] = {
    ("modelopt", torch.float32): (
        "4e555e6538747e4c5601666d",
        "0x1.19fbae0000000p-8",
        "3f6efad3964f6df8d5075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "500be2b0076ef003a6400df9d0075f7001c5100e7be0063f"
        "5de9d3964e6ce8c4075e7ce1b5276e7be3a64f6df9d4964f",
    ),
    ("torchao", torch.float32): (
        "4e555e6508747e4c5608666d",
        "0x1.19fbae0000000p-8",
        "3f6efad3964f6df8d5075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "588be2b8876ef883a6488df9d8875f7881c5188e7be8863f"
        "1998908109199891075e7ce1b5276e7be3a64f6df9d4964f",
    ),
    ("torchao_block", torch.float32): (
        "10161f2608363f0d1708282f",
        None,
        "2f6dfad3964f6de8d5075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "588be2b8876ef883a6488df9d8875f7881c5188e7be8863f"
        "0888808008088880065e7ce1b5275e7ae3a63f6df9d4964f",
    ),
    ("compressed_tensors", torch.float32): (
        "4e555e6520747e4c5601666d",
        "0x1.d0d2780000000p+7",
        "3f6efad3964f6df8d5075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "500be2b0076ef003a6400df9d0075f7001c5100e7be0063f"
        "5de9d3964e6ce8c4075e7ce1b5276e7be3a64f6df9d4964f",
    ),
    ("modelopt", torch.bfloat16): (
        "4e555e6538747e4c5601666d",
        "0x1.19e79e0000000p-8",
        "3f6efad3964f6df8d4075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "500be2b0076ef003a6400df9d0075f7001c5100e7be0063f"
        "5de9d3964e6ce8c4075e7ce1b5276e7be3a64f6df9d4964f",
    ),
    ("torchao", torch.bfloat16): (
        "4e555e6508747e4c5608666d",
        "0x1.19e79e0000000p-8",
        "3f6efad3964f6df8d4075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "588be2b8876ef883a6488df9d8875f7881c5188e7be8863f"
        "1998908109199891075e7ce1b5276e7be3a64f6df9d4964f",
    ),
    ("torchao_block", torch.bfloat16): (
        "10161f2608363f0d1708282f",
        None,
        "2f6dfad3964f6de8d5075f7ce1c5276e7be2a63f6dfad496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "588ce2b8876ef883a6488df9d8875f7881c5188e7be8863f"
        "0888808008088880065e7ce1b5275e7ae3a63f6df9d4964f",
    ),
    ("compressed_tensors", torch.bfloat16): (
        "4e555e6520747e4c5601666d",
        "0x1.d000000000000p+7",
        "3f6dfad3964f6df8d4075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "500be2b0076ef003a6400df9d0075f7001c5100e7be0063f"
        "5de9d3964e6ce8c4075e7ce1b5275e7be3a64f6df9d4964f",
    ),
    ("modelopt", torch.float16): (
        "4e555e6538747e4c5601666d",
        "0x1.19e79e0000000p-8",
        "3f6efad3964f6df8d5075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "500be2b0076ef003a6400df9d0075f7001c5100e7be0063f"
        "5de9d3964e6ce8c4075e7ce1b5276e7be3a64f6df9d4964f",
    ),
    ("compressed_tensors", torch.float16): (
        "4e555e6520747e4c5601666d",
        "0x1.d100000000000p+7",
        "3f6efad3964f6df8d5075f7ce1c5276e7be2a63f6df9d496"
        "4f7df8c5175e7ce10000000000000000f9d4875f7df0c517"
        "500be2b0076ef003a6400df9d0075f7001c5100e7be0063f"
        "5de9d3964e6ce8c4075e7ce1b5276e7be3a64f6df9d4964f",
    ),
}
