"""Seeded operands for a Problem: ordinary ones, and ones made to break kernels.

Every distribution is a pure function of (problem, name, seed), generated on the CPU so that a seed means the same
operands on every machine, and moved to the device afterwards.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nvfp4 import layouts
from nvfp4.backends.base import Operand, Operands
from nvfp4.contest.inputs import draw_codes, draw_scales
from nvfp4.contest.tasks import Distribution, distribution_of
from nvfp4.errors import InputError
from nvfp4.formats import BLOCK, E2M1_MAX, encode_e2m1, encode_e4m3, pack
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""The torch type of each name that `Problem.out_dtype` and `Format.kind` use."""


@dataclass(frozen=True)
class Draw:
    """Random codes and scale bytes of [batch, rows, K]: `codes` uint8 [..., K/2], `scales` uint8 [..., K/16]."""

    codes: torch.Tensor
    scales: torch.Tensor


Sampler = Callable[[torch.Generator, int, int, int], Draw]


def _codes(g: torch.Generator, batch: int, rows: int, k: int, limit: int = 256) -> torch.Tensor:
    return torch.randint(0, limit, (batch, rows, k // 2), generator=g, dtype=torch.uint8)


def _uniform(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """All 16 codes; every finite positive scale from 2^-4 to 15, so that sums are mostly but not always exact."""
    exponent_and_mantissa = torch.randint(0x18, 0x58, (batch, rows, k // BLOCK), generator=g, dtype=torch.uint8)
    return Draw(_codes(g, batch, rows, k), exponent_and_mantissa)


def _integers(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """All 16 codes with scales 1 and 2: every sum is exact in fp32 up to K of 100 000, so results must be bit-equal."""
    return Draw(
        _codes(g, batch, rows, k),
        torch.randint(0, 2, (batch, rows, k // BLOCK), generator=g).to(torch.uint8) * 8 + 0x38,
    )


def _all_scales(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """Every finite scale byte, subnormal, zero and negative ones included."""
    scales = torch.randint(0, 0x7F, (batch, rows, k // BLOCK), generator=g, dtype=torch.uint8)
    signs = torch.randint(0, 2, scales.shape, generator=g, dtype=torch.uint8) << 7
    return Draw(_codes(g, batch, rows, k), scales | signs)


def _largest(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """Scale 448 everywhere, so that 448 * 448 overflows an fp16 intermediate; most codes are zero, to stay finite."""
    codes = _codes(g, batch, rows, k)
    codes *= _codes(g, batch, rows, k) < 4
    return Draw(codes, torch.full((batch, rows, k // BLOCK), 0x7E, dtype=torch.uint8))


def _smallest(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """Subnormal scales 2^-9 .. 7 * 2^-9 only: a kernel that flushes them gives zeros."""
    return Draw(
        _codes(g, batch, rows, k), torch.randint(1, 8, (batch, rows, k // BLOCK), generator=g, dtype=torch.uint8)
    )


def _one_hot(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """One nonzero code in each row, at a different place, with a scale that names its block: exposes permutations."""
    codes = torch.zeros(batch, rows, k, dtype=torch.uint8)
    start = int(torch.randint(0, k, (1,), generator=g))
    where = (start + torch.arange(rows) * 7) % k
    code = 1 + (torch.arange(rows) % 7)
    codes[:, torch.arange(rows), where] = code.to(torch.uint8)
    blocks = torch.arange(k // BLOCK)
    scales = (
        (0x30 + (blocks * 5 + torch.arange(rows)[:, None] * 3) % 16).to(torch.uint8).expand(batch, rows, k // BLOCK)
    )
    return Draw(codes[..., 0::2] | codes[..., 1::2] << 4, scales.contiguous())


def _signed_zeros(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """Only the codes +0, -0, +0.5, -0.5, and half of the scales zero."""
    scales = torch.randint(0, 2, (batch, rows, k // BLOCK), generator=g, dtype=torch.uint8) * 0x38
    return Draw(_codes(g, batch, rows, k) & 0x99, scales)


@functools.cache
def _gaussian_tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of two codes, and scale bytes, as quantizing Gaussian blocks gives them: 2^14 of each."""
    x = torch.randn(1 << 14, BLOCK, generator=torch.Generator().manual_seed(0))
    scales = encode_e4m3(x.abs().amax(-1) / E2M1_MAX)
    codes = encode_e2m1(x / scales.float().unsqueeze(-1))
    return pack(codes).flatten()[: 1 << 14].contiguous(), scales.view(torch.uint8)


def _gaussian(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
    """What a quantizer makes of Gaussian data: codes follow the bell curve, scales the largest value of a block."""
    code_table, scale_table = _gaussian_tables()

    def draw(table: torch.Tensor, *shape: int) -> torch.Tensor:
        return table[torch.randint(0, table.numel(), shape, generator=g, dtype=torch.int32)]

    return Draw(draw(code_table, batch, rows, k // 2), draw(scale_table, batch, rows, k // BLOCK))


def _contest(rule: Distribution) -> Sampler:
    """The sampler of a contest task's own data."""

    def sample(g: torch.Generator, batch: int, rows: int, k: int) -> Draw:
        codes = draw_codes((batch, rows, k // 2), rule, g)
        return Draw(codes, draw_scales((batch, rows, k // BLOCK), rule, g).view(torch.uint8))

    return sample


DISTRIBUTIONS: dict[str, Sampler] = {
    "uniform": _uniform,
    "integers": _integers,
    "gaussian": _gaussian,
    "all-scales": _all_scales,
    "largest": _largest,
    "smallest": _smallest,
    "one-hot": _one_hot,
    "signed-zeros": _signed_zeros,
}
"""Name -> sampler of the distributions that do not depend on the operation; each docstring says its purpose."""

NAMES = ("contest", *DISTRIBUTIONS)
"""What `make` accepts: "contest" is the data of the contest's task for the operation (`contest.tasks`)."""


def describe(name: str) -> str:
    """One line on a distribution."""
    if name == "contest":
        return "The data of the contest's task."
    return (DISTRIBUTIONS[name].__doc__ or "").strip().splitlines()[0]


def _sampler(problem: Problem, name: str) -> Sampler:
    return _contest(distribution_of(problem.op)) if name == "contest" else DISTRIBUTIONS[name]


def _generator(problem: Problem, name: str, seed: int) -> torch.Generator:
    """A generator that differs for every problem, distribution and seed."""
    return torch.Generator().manual_seed(zlib.crc32(f"{problem}|{name}|{seed}".encode()) << 16 ^ seed)


def _dense(g: torch.Generator, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """16-bit activations: small integers where sums should be exact, one-hot rows, or Gaussian."""
    if name in ("integers", "contest", "signed-zeros"):
        return torch.randint(-4, 5, shape, generator=g).to(dtype)
    if name == "one-hot":
        out = torch.zeros(shape, dtype=dtype)
        rows = out.view(-1, shape[-1])
        index = torch.arange(rows.shape[0])
        rows[index, (index * 11 + 3) % shape[-1]] = 1 + (index % 5).to(dtype)
        return out
    return torch.randn(shape, generator=g).to(dtype)


def _operand(
    g: torch.Generator, name: str, sampler: Sampler, form: Format, batch: int | None, rows: int, k: int
) -> Operand:
    shape = (rows, k) if batch is None else (batch, rows, k)
    if form.kind != "nvfp4":
        return _dense(g, name, shape, DTYPES[form.kind])
    draw = sampler(g, batch or 1, rows, k)
    codes, scales = draw.codes, draw.scales.view(torch.float8_e4m3fn)
    if batch is None:
        codes, scales = codes[0], scales[0]
    scale = None
    if form.tensor_scale:
        # Powers of two keep exact sums exact; the Gaussian data gets arbitrary ones, as real checkpoints have.
        count = batch or 1
        power = torch.randint(-6, 3, (count,), generator=g).float().exp2()
        scale = power if name != "gaussian" else power * (1 + torch.rand(count, generator=g))
        scale = scale if batch is not None else scale[0]
    packed = layouts.by_name(form.scale_layout).pack(scales)
    return NVFP4Tensor(codes, packed, scale, scale_layout=form.scale_layout)


def _offsets(g: torch.Generator, rows: int, groups: int) -> torch.Tensor:
    """Ends of `groups` ragged groups in `rows` rows: some groups are empty, and half of the time rows are left over."""
    last = rows - int(torch.randint(0, 2, (), generator=g)) * int(torch.randint(0, rows // 4 + 1, (), generator=g))
    cuts, _ = torch.sort(torch.randint(0, last + 1, (groups - 1,), generator=g))
    return torch.cat([cuts, torch.tensor([last])]).to(torch.int32)


def _rows(g: torch.Generator, count: int, tokens: int, used: int) -> torch.Tensor:
    """An index: some rows several times, others never, out of order. Behind the last group nonsense, as in a buffer."""
    rows = torch.randint(0, tokens, (count,), generator=g, dtype=torch.int32)
    nonsense = torch.tensor([-1, tokens, -(2**31), 2**31 - 1], dtype=torch.int32)
    rows[used:] = nonsense[torch.randint(0, 4, (count - used,), generator=g)]
    return rows


def output_shapes(problem: Problem, *, batched: bool | None = None) -> tuple[tuple[int, ...], ...]:
    """Shapes of the results: with a leading L when `batched` (default: when L is not 1)."""
    if problem.groups:
        return tuple((m, n) for m, n, _ in problem.groups)
    if problem.stacked:
        return ((problem.m, problem.n),)
    lead = (problem.l,) if (problem.l != 1 if batched is None else batched) else ()
    if problem.op is Op.GEMV:
        return ((*lead, problem.n, problem.m),)
    return ((*lead, problem.m, problem.n),)


def make(
    problem: Problem, distribution: str = "uniform", seed: int = 0, device: str | torch.device = "cpu"
) -> Operands:
    """Operands of `problem`; `out` is uninitialised (see `poison.poisoned` for outputs that tell).

    Args:
        problem: What they are for.
        distribution: A key of `DISTRIBUTIONS`.
        seed: Any integer; the same arguments give the same operands on every machine.
        device: Where they end up.
    """
    if distribution not in NAMES:
        raise InputError("check", "distribution", "one of " + ", ".join(NAMES), distribution, "Name one of them.")
    g = _generator(problem, distribution, seed)
    operand = functools.partial(_operand, g, distribution, _sampler(problem, distribution))
    batch = problem.l if problem.l != 1 else None
    count = problem.op.matrices
    offsets = rows = None
    a: tuple[Operand, ...]
    b: tuple[Operand, ...]
    if problem.groups:
        a = tuple(operand(problem.a, None, m, k) for m, _, k in problem.groups)
        b = tuple(operand(problem.b, None, n, k) for _ in range(count) for _, n, k in problem.groups)
    elif problem.stacked:
        a = (operand(problem.a, None, problem.tokens or problem.m, problem.k),)
        b = tuple(operand(problem.b, problem.stacked, problem.n, problem.k) for _ in range(count))
        offsets = _offsets(g, problem.m, problem.stacked)
        rows = _rows(g, problem.m, problem.tokens, int(offsets[-1])) if problem.tokens else None
    else:
        a = (operand(problem.a, batch, problem.m, problem.k),)
        b = tuple(operand(problem.b, batch, problem.n, problem.k) for _ in range(count))
    out = tuple(torch.empty(shape, dtype=DTYPES[problem.out_dtype]) for shape in output_shapes(problem))
    # Multiples of 1/8: values of every type, and sums that stay exact.
    bias = torch.randint(-512, 513, (problem.m,), generator=g) / 8 if problem.bias else None
    operands = Operands(a, b, out, offsets, None if bias is None else bias.to(DTYPES[problem.bias]), rows)
    return operands if torch.device(device).type == "cpu" else to_device(operands, device)


def to_device(operands: Operands, device: str | torch.device) -> Operands:
    """The same operands on `device`."""
    return Operands(
        tuple(x.to(device) for x in operands.a),
        tuple(x.to(device) for x in operands.b),
        tuple(x.to(device) for x in operands.out),
        operands.offsets.to(device) if operands.offsets is not None else None,
        operands.bias.to(device) if operands.bias is not None else None,
        operands.rows.to(device) if operands.rows is not None else None,
    )
