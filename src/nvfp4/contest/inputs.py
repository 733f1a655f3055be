"""Seeded inputs of the four contest tasks, in the contest's own tensor form and as `NVFP4Tensor` operands.

The contest's form: tensors are strided views whose storage is batch first. Codes are ``(rows, K/2, L)`` views (dtype
``float4_e2m1fn_x2``) of ``(L, rows, K/2)`` storage; linear scales ``(rows, K/16, L)`` views of ``(L, rows, K/16)``;
the ``*_permuted`` scales ``(32, 4, rest_m, 4, rest_k, L)`` views of ``(L, rest_m, rest_k, 32, 4, 4)``: 128x4 tiles.
Tiles that reach beyond the rows or the scale columns hold random scales there, never NaN; no kernel may use them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch

from nvfp4 import formats, layouts
from nvfp4.backends.base import Operands
from nvfp4.contest.tasks import Case, Distribution, Task
from nvfp4.problem import Op
from nvfp4.tensor import NVFP4Tensor

Pair = tuple[torch.Tensor, torch.Tensor]
Dense = tuple[torch.Tensor, ...]
"""gemv and gemm: (a, b, sfa, sfb, sfa_permuted, sfb_permuted, c); dual: (a, b1, b2, sfa, sfb1, sfb2, the same three
permuted, c)."""
Grouped = tuple[
    list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], list[Pair], list[Pair], list[tuple[int, int, int, int]]
]
"""group: (abc_tensors, sfasfb_tensors, sfasfb_reordered_tensors, problem_sizes), lists over the groups; the linear
scales are CPU tensors."""
Data = Dense | Grouped

GEMV_ROWS = 128
"""Rows of the contest's GEMV vector: row 0 is the vector, the rest pads it to one scale tile."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """One NVFP4 operand in the contest's views: `codes`, linear `scales`, tiled `permuted` scales."""

    codes: torch.Tensor
    scales: torch.Tensor
    permuted: torch.Tensor


def draw_codes(shape: tuple[int, ...], distribution: Distribution, generator: torch.Generator) -> torch.Tensor:
    """Random uint8 bytes of two codes each."""
    drawn = torch.randint(
        0, distribution.byte_limit, shape, dtype=torch.uint8, device=generator.device, generator=generator
    )
    return drawn if distribution.byte_mask == 0xFF else drawn & distribution.byte_mask


def draw_scales(shape: tuple[int, ...], distribution: Distribution, generator: torch.Generator) -> torch.Tensor:
    """Random float8_e4m3fn block scales."""
    device = generator.device
    if distribution.scales is None:
        values = torch.rand(shape, dtype=torch.float32, device=device, generator=generator)
    else:
        low, high = distribution.scales
        values = torch.randint(low, high, shape, dtype=torch.int8, device=device, generator=generator).float()
    return values.to(torch.float8_e4m3fn)


Rule = Distribution | Callable[[torch.Generator, int, int, int], tuple[torch.Tensor, torch.Tensor]]
"""How operands are drawn: a distribution, or a function of (CPU generator, batch, rows, K) that gives uint8 codes
[batch, rows, K/2] and scale bytes [batch, rows, K/16]."""


def _draw(
    batch: int, rows: int, k: int, rule: Rule, generator: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of whole tiles of rows, and scales of whole tiles, both more than asked for."""
    whole = -(-rows // layouts.TILE_ROWS) * layouts.TILE_ROWS
    columns = -(-k // (formats.BLOCK * layouts.TILE_BLOCKS)) * layouts.TILE_BLOCKS
    if isinstance(rule, Distribution):
        codes = draw_codes((batch, rows, k // 2), rule, generator)
        return codes, draw_scales((batch, whole, columns), rule, generator)
    drawn, scales = rule(generator, batch, whole, columns * formats.BLOCK)
    codes = drawn[:, :rows, : k // 2].contiguous().to(device)
    return codes, scales.view(torch.uint8).to(device).view(torch.float8_e4m3fn)


def _matrix(batch: int, rows: int, k: int, rule: Rule, generator: torch.Generator, device: torch.device) -> Matrix:
    blocks = k // formats.BLOCK
    codes, padded = _draw(batch, rows, k, rule, generator, device)
    linear = padded.view(torch.uint8)[:, :rows, :blocks].contiguous().view(torch.float8_e4m3fn)
    return Matrix(
        codes.view(torch.float4_e2m1fn_x2).permute(1, 2, 0),
        linear.permute(1, 2, 0),
        layouts.CONTEST.pack(padded),
    )


def _result(batch: int, m: int, n: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    # Random, as in the contest: an output that is never written is not zero by luck.
    drawn = torch.randn((batch, m, n), dtype=torch.float32, device=generator.device, generator=generator)
    return drawn.to(torch.float16).to(device).permute(1, 2, 0)


def generate(
    task: Task,
    case: Case,
    *,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    distribution: Rule | None = None,
) -> Data:
    """The inputs of one case in the contest's tensor form.

    The same seed gives the same inputs on the same kind of device (CPU and CUDA draw different numbers). They have the
    contest's distribution, not its bits.

    Args:
        task: The task.
        case: One of its cases, or any other with its kind of sizes.
        device: Where the tensors live.
        seed: Seed instead of the case's own.
        distribution: Other data than the task's, for stricter checks; a function draws on the CPU.
    """
    rule = distribution or task.distribution
    place = torch.device(device)
    generator = torch.Generator(device=place if isinstance(rule, Distribution) else "cpu")
    generator.manual_seed(case.seed if seed is None else seed)
    if task.op is Op.GROUP_GEMM:
        return _generate_groups(case, rule, generator, place)
    ((m, n, k),) = case.groups
    count = 2 if task.op is Op.DUAL_GEMM else 1
    rows = GEMV_ROWS if task.op is Op.GEMV else n
    matrices = [_matrix(case.l, m, k, rule, generator, place)]
    matrices += [_matrix(case.l, rows, k, rule, generator, place) for _ in range(count)]
    return (
        *(matrix.codes for matrix in matrices),
        *(matrix.scales for matrix in matrices),
        *(matrix.permuted for matrix in matrices),
        _result(case.l, m, n, generator, place),
    )


def _generate_groups(case: Case, rule: Rule, generator: torch.Generator, place: torch.device) -> Grouped:
    operands: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    linear: list[Pair] = []
    tiled: list[Pair] = []
    sizes: list[tuple[int, int, int, int]] = []
    for m, n, k in case.groups:
        a, b = _matrix(1, m, k, rule, generator, place), _matrix(1, n, k, rule, generator, place)
        operands.append((a.codes, b.codes, _result(1, m, n, generator, place)))
        linear.append((a.scales.cpu(), b.scales.cpu()))
        tiled.append((a.permuted, b.permuted))
        sizes.append((m, n, k, 1))
    return operands, linear, tiled, sizes


def operands(task: Task, data: Data, *, scale_layout: str = "linear") -> Operands:
    """The same inputs for `nvfp4`'s operations: views of the contest's tensors, results included.

    GEMV and GEMM become batched ``[L, ...]`` operands, dual and grouped GEMM two-dimensional ones. The GEMV's vector is
    row 0 of the padded operand (copied, a few kilobytes); linear scales of groups are moved to the codes' device.
    """
    if task.op is Op.GROUP_GEMM:
        return _group_operands(cast(Grouped, data), scale_layout)
    dense = cast(Dense, data)
    count = 3 if task.op is Op.DUAL_GEMM else 2
    first = count if scale_layout == "linear" else 2 * count
    codes, scales = dense[:count], dense[first : first + count]
    rows = [None] + [1 if task.op is Op.GEMV else None] * (count - 1)
    a, *b = [
        NVFP4Tensor.from_contest(c, s, rows=r, validate=False) for c, s, r in zip(codes, scales, rows, strict=True)
    ]
    out = as_results(task, [dense[-1]])
    if task.op is Op.DUAL_GEMM:
        return Operands((a[0],), tuple(matrix[0] for matrix in b), out)
    return Operands((a,), tuple(b), out)


def _group_operands(data: Grouped, scale_layout: str) -> Operands:
    abc, linear, tiled, _ = data
    sides: tuple[list[NVFP4Tensor], list[NVFP4Tensor]] = ([], [])
    out = []
    for (a, b, c), plain, permuted in zip(abc, linear, tiled, strict=True):
        for side, codes, cpu, tiles in zip(sides, (a, b), plain, permuted, strict=True):
            scales = cpu.to(codes.device) if scale_layout == "linear" else tiles
            side.append(NVFP4Tensor.from_contest(codes, scales, validate=False)[0])
        out.append(c.permute(2, 0, 1)[0])
    return Operands(tuple(sides[0]), tuple(sides[1]), tuple(out))


def tensors(task: Task, data: Data) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """All input tensors and all result tensors of `data`, flat; of a group a, b, both linear and both tiled scales."""
    if task.op is not Op.GROUP_GEMM:
        dense = cast(Dense, data)
        return list(dense[:-1]), [dense[-1]]
    abc, linear, tiled, _ = cast(Grouped, data)
    found = [x for (a, b, _), plain, tiles in zip(abc, linear, tiled, strict=True) for x in (a, b, *plain, *tiles)]
    return found, [c for _, _, c in abc]


def as_results(task: Task, results: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Tensors of the shape of the contest's c, [M, N, L], as the results of `nvfp4`'s operations (see `operands`)."""
    if task.op in (Op.GROUP_GEMM, Op.DUAL_GEMM):
        return tuple(result.permute(2, 0, 1)[0] for result in results)
    # Storage [L, M, 1] of the GEMV's result is the [L, 1, M] of the batched operation.
    return (results[0].permute((2, 1, 0) if task.op is Op.GEMV else (2, 0, 1)),)


def as_storage(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of one of the contest's views in the order of their storage; few operators take its types."""
    order = (5, 2, 4, 0, 1, 3) if tensor.dim() == 6 else (2, 0, 1)
    return tensor.permute(order).view(torch.uint8)
