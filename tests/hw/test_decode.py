"""Every code under every scale through every decoder of the plain kernels: products with an identity, exact in fp32."""

from __future__ import annotations

import pytest
import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.sm80 import BACKEND
from nvfp4.device import capability, known
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

SCALES = torch.tensor([byte for byte in range(256) if byte & 0x7F != 0x7F], dtype=torch.uint8)
ROWS = len(SCALES)  # 254: all but the NaNs


def every_value() -> NVFP4Tensor:
    """[254, 32]: row i has scale i in its second block, and all 16 codes there; its first block is zero."""
    codes = torch.zeros(ROWS, 16, dtype=torch.uint8)
    codes[:, 8:] = torch.tensor([16 * (2 * i + 1) + 2 * i for i in range(8)], dtype=torch.uint8)
    scales = torch.zeros(ROWS, 2, dtype=torch.uint8)
    scales[:, 1] = SCALES
    return NVFP4Tensor(codes, scales)


def expected() -> torch.Tensor:
    """fp32 [16, 254]: code times scale, from torch's own conversion of float8 and a table of E2M1."""
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat([magnitudes, -magnitudes])
    return values[:, None] * SCALES.view(torch.float8_e4m3fn).float()[None, :]


def identity(kind: str) -> NVFP4Tensor | torch.Tensor:
    """[16, 32]: row i is one at element 16 + i."""
    dense = torch.cat([torch.zeros(16, 16), torch.eye(16)], dim=1)
    if kind != "nvfp4":
        return dense.to(torch.float16 if kind == "fp16" else torch.bfloat16)
    pairs = (dense * 2).to(torch.uint8)  # code 2 is one
    return NVFP4Tensor(pairs[:, ::2] | pairs[:, 1::2] << 4, torch.full((16, 2), 0x38, dtype=torch.uint8))  # 0x38 is one


CASES = [
    pytest.param("cpu", "sm_80", id="emulated sm_80"),  # bit arithmetic
    pytest.param("cpu", "sm_90a", id="emulated sm_90a"),  # cvt.rn.f16x2.e4m3x2
    pytest.param("cuda", None, marks=pytest.mark.gpu, id="gpu"),
]


@pytest.mark.parametrize(("device", "arch"), CASES)
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
@pytest.mark.parametrize("op", [Op.GEMV, Op.GEMM])
@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_every_code_under_every_scale(op, kind, layout, device, arch):
    values, other = every_value().to_layout(layout).to(device), identity(kind).to(device)
    form, side = Format("nvfp4", layout), Format(kind, "linear" if kind == "nvfp4" else "")
    out = torch.full((16, ROWS), float("nan"), device=device)
    if op is Op.GEMV:
        problem = Problem(op, ROWS, 16, 32, 1, form, side, "fp32")
        operands = Operands((values,), (other,), (out,))
    else:
        problem = Problem(op, 16, ROWS, 32, 1, side, form, "fp32")
        operands = Operands((other,), (values,), (out,))
    what = known(arch) if arch else capability(device)
    BACKEND.run(BACKEND.plan(what, problem), problem, operands)
    assert torch.equal(out.cpu(), expected())
