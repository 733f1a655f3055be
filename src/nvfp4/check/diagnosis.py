"""What is probably wrong with a wrong result: each hypothesis is computed and held against the output.

A hypothesis fits when the output follows it, element by element, where it differs from the right answer. Everything is
computed in float64 on a sample of rows and columns of one product, so that diagnosis costs little at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from nvfp4 import layouts
from nvfp4.backends.base import Operand
from nvfp4.formats import BLOCK, decode_e2m1, decode_e4m3, pack, unpack
from nvfp4.problem import Op
from nvfp4.tensor import NVFP4Tensor

SAMPLE = 48
"""Rows and columns of a product that are looked at."""

# What the user calls the sides: the result of a gemv is the vectors times the matrix transposed.
_NAMES: dict[Op, tuple[str, tuple[str, ...]]] = {
    Op.GEMV: ("x", ("A",)),
    Op.GEMM: ("A", ("B",)),
    Op.DUAL_GEMM: ("A", ("B1", "B2")),
    Op.GROUP_GEMM: ("A", ("B",)),
    Op.GROUP_DUAL_GEMM: ("A", ("B1", "B2")),
}

FIT = 0.95
"""Share of the telling elements that must follow a hypothesis."""


@dataclass(frozen=True, eq=False)
class Side:
    """One operand of one product, taken apart so that faults can be planted in it.

    Attributes:
        codes: uint8 [rows, K], one code an element; empty when `dense` is given.
        scales: float64 [rows, K/16].
        layout: The layout that the caller passed, ``"linear"`` or ``"tiled"``.
        stored: uint8, the scale bytes flat in that layout.
        tensor_scale: As passed, or 1.
        dense: 16-bit activations as float64 [rows, K], or None.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    layout: str
    stored: torch.Tensor
    tensor_scale: float
    dense: torch.Tensor | None = None

    def values(self) -> torch.Tensor:
        """float64 [rows, K]."""
        if self.dense is not None:
            return self.dense
        decoded = decode_e2m1(pack(self.codes), torch.float64)
        return decoded * self.scales.repeat_interleave(BLOCK, -1) * self.tensor_scale


def side(operand: Operand, index: int | None) -> Side:
    """Matrix `index` of a batch (None: a single matrix) taken apart, on the CPU."""
    if not isinstance(operand, NVFP4Tensor):
        dense = operand if index is None or operand.dim() == 2 else operand[index]
        return Side(torch.empty(0), torch.empty(0), "", torch.empty(0), 1.0, dense.detach().cpu().double())
    one = (operand if operand.ndim == 2 else operand[index or 0]).to("cpu")
    scale = 1.0 if one.tensor_scale is None else float(one.tensor_scale)
    scales = decode_e4m3(one.linear_scales(), torch.float64)
    return Side(unpack(one.codes), scales, one.scale_layout, one.scales.view(torch.uint8).flatten(), scale)


def take_rows(s: Side, rows: slice | torch.Tensor) -> Side:
    """Some rows of a side. Its stored scales stay whole, because a layout is a matter of the whole operand."""
    if s.dense is not None:
        return replace(s, dense=s.dense[rows])
    return replace(s, codes=s.codes[rows], scales=s.scales[rows])


@dataclass(frozen=True, eq=False)
class Product:
    """The operands of one product, and what came out.

    Attributes:
        op: The operation.
        a, b: Its sides; `b` has two for dual operations.
        got: float64 [M, N], the output in question.
        want: float64 [M, N], the exact answer.
        magnitude: float64 [M, N], the sum of the absolute values of the products, tensor scales included.
        epsilon: Unit roundoff of the output type.
        largest: Largest finite value of the output type.
        name: Which product: ``""``, ``"batch 3"`` or ``"group 5"``.
        others: Sides (A, B) of other batches or groups that might have been read instead.
        unwritten: Bool [M, N], elements that still hold the poison.
    """

    op: Op
    a: Side
    b: tuple[Side, ...]
    got: torch.Tensor
    want: torch.Tensor
    magnitude: torch.Tensor
    epsilon: float
    largest: float
    name: str = ""
    others: tuple[tuple[str, Side, tuple[Side, ...]], ...] = ()
    unwritten: torch.Tensor | None = None


@dataclass(frozen=True)
class Diagnosis:
    """One explanation of a wrong result, with the share of the telling elements that follow it."""

    cause: str
    share: float
    remedy: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.share:.0%} of the wrong elements follow this). {self.remedy}"


# ---- faults in one operand ------------------------------------------------------------------------------------------


def _swap_nibbles(s: Side) -> Side:
    return replace(s, codes=s.codes.view(*s.codes.shape[:-1], -1, 2).flip(-1).flatten(-2))


def _drop_signs(s: Side) -> Side:
    return replace(s, codes=s.codes & 7)


def _other_layout(s: Side) -> Side:
    """The stored bytes read as the other layout; bytes beyond the end read as zero."""
    rows, blocks = s.scales.shape
    wrong = layouts.LINEAR if s.layout == "tiled" else layouts.TILED
    shape = wrong.storage_shape(rows, blocks)
    flat = torch.zeros(math.prod(shape), dtype=torch.uint8)
    count = min(flat.numel(), s.stored.numel())
    flat[:count] = s.stored[:count]
    return replace(s, scales=torch.nan_to_num(decode_e4m3(wrong.unpack(flat.view(shape), rows, blocks), torch.float64)))


def _shift_blocks(by: int) -> Callable[[Side], Side]:
    return lambda s: replace(s, scales=s.scales.flatten().roll(by).view(s.scales.shape))


def _shift_rows(by: int) -> Callable[[Side], Side]:
    return lambda s: replace(s, scales=s.scales.roll(by, 0))


def _unit_scales(s: Side) -> Side:
    return replace(s, scales=torch.ones_like(s.scales))


def _flush_small(s: Side) -> Side:
    return replace(s, scales=torch.where(s.scales.abs() < 2.0**-6, torch.zeros_like(s.scales), s.scales))


def _no_tensor_scale(s: Side) -> Side:
    return replace(s, tensor_scale=1.0)


def _inverted_tensor_scale(s: Side) -> Side:
    return replace(s, tensor_scale=1.0 / s.tensor_scale)


_OPERAND_FAULTS: tuple[tuple[str, Callable[[Side], Side], str], ...] = (
    ("the nibbles of {} are swapped", _swap_nibbles, "The even element of a pair is the low nibble."),
    (
        "the scales of {} are read in the wrong layout ({layout})",
        _other_layout,
        "Check scale_layout, or convert with to_layout().",
    ),
    ("the scales of {} are shifted by one block", _shift_blocks(1), "Block j covers elements 16 j .. 16 j + 15."),
    (
        "the scales of {} are shifted by one block (backwards)",
        _shift_blocks(-1),
        "Block j covers elements 16 j .. 16 j + 15.",
    ),
    ("the scales of {} are taken from the row before", _shift_rows(1), "Check the row index of the scale load."),
    ("the scales of {} are taken from the row behind", _shift_rows(-1), "Check the row index of the scale load."),
    ("the block scales of {} are not applied", _unit_scales, "Multiply each block of 16 by its E4M3 scale."),
    ("the subnormal scales of {} are flushed to zero", _flush_small, "Decode E4M3 subnormals (below 2^-6) exactly."),
    ("the tensor scale of {} is missing", _no_tensor_scale, "Multiply the accumulator by tensor_scale."),
    (
        "the tensor scale of {} is inverted",
        _inverted_tensor_scale,
        "This format multiplies; some checkpoints store the reciprocal.",
    ),
    ("the signs of {} are lost", _drop_signs, "Bit 3 of a code is its sign."),
)


def _combine(op: Op, a: torch.Tensor, bs: list[torch.Tensor]) -> torch.Tensor:
    products = [a @ b.T for b in bs]
    if not op.dual:
        return products[0]
    gate, up = products
    return gate * torch.sigmoid(gate) * up


_Candidate = tuple[str, str, torch.Tensor]


class _Sample:
    """The rows and columns that are looked at, and what the product gives there under a fault."""

    def __init__(self, product: Product) -> None:
        self.product = product
        wrong = _wrong(product)
        generator = torch.Generator().manual_seed(0)

        def pick(hit: torch.Tensor) -> torch.Tensor:
            index = hit.nonzero().flatten()
            chosen = index[torch.randperm(index.numel(), generator=generator)[: SAMPLE - 8]]
            extra = torch.randperm(hit.numel(), generator=generator)[:8]
            both: torch.Tensor = torch.cat([chosen, extra]).sort().values
            return both[torch.cat([both.new_ones(1), both.diff()]) > 0]

        self.rows, self.columns = pick(wrong.any(1)), pick(wrong.any(0))
        self.got = self.at(product.got)
        self.want = self.at(product.want)
        self.magnitude = self.at(product.magnitude)
        self.wrong = self.at(wrong)

    def at(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix[self.rows][:, self.columns]

    def compute(self, a: Side, bs: tuple[Side, ...]) -> torch.Tensor:
        """float64 values at the sampled rows and columns."""
        left = (
            a.values()[self.rows]
            if a.values().shape[0] > int(self.rows.max())
            else a.values()[:1].expand(len(self.rows), -1)
        )
        right = [b.values()[self.columns] for b in bs]
        return _combine(self.product.op, left, right)

    def share(self, candidate: torch.Tensor) -> float:
        """How many of the elements where the hypothesis differs from the truth follow it; 0 where it tells nothing."""
        slack = self.product.epsilon * candidate.abs() * 2 + 2.0**-13 * self.magnitude + 1e-30
        differs = (candidate - self.want).abs() > 4 * slack
        # Elements that are wrong although the hypothesis leaves them right speak against it, too.
        telling = differs | self.wrong
        if not bool(differs.any()):
            return 0.0
        close = ((self.got - candidate).abs() <= slack) | _same_overflow(self.product, self.got, candidate)
        return float(close[telling].double().mean())


def _same_overflow(p: Product, got: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """Where the output type cannot hold the candidate's value and the output is that infinity."""
    return torch.isinf(got) & (candidate.abs() > 0.99 * p.largest) & (torch.sign(got) == torch.sign(candidate))


def _wrong(p: Product) -> torch.Tensor:
    """Elements that no rounding explains."""
    slack = 2 * p.epsilon * p.want.abs() + 2.0**-13 * p.magnitude + 1e-30
    return ~(((p.got - p.want).abs() <= slack) | _same_overflow(p, p.got, p.want))


def _operand_candidates(sample: _Sample) -> Iterator[_Candidate]:
    p = sample.product
    first, names = _NAMES[p.op]
    sides = [(first, p.a), *zip(names, p.b, strict=True)]
    for cause, fault, remedy in _OPERAND_FAULTS:
        subsets: list[tuple[int, ...]] = [(i,) for i in range(len(sides))]
        subsets += [tuple(range(1, len(sides)))] if len(sides) > 2 else []
        subsets += [tuple(range(len(sides)))]
        for subset in subsets:
            if any(sides[i][1].dense is not None for i in subset):
                continue
            faulty = [fault(s) if i in subset else s for i, (_, s) in enumerate(sides)]
            name = " and ".join(sides[i][0] for i in subset)
            if fault is _swap_nibbles and not p.op.dual:
                # A permutation of K on one side is its inverse on the other: the result is the same.
                name = f"{first} or {names[0]} (one of them, not both)"
            layout = "tiles read as linear" if sides[subset[0]][1].layout == "tiled" else "linear read as tiles"
            yield cause.format(name, layout=layout), remedy, sample.compute(faulty[0], tuple(faulty[1:]))


def _structure_candidates(sample: _Sample) -> Iterator[_Candidate]:
    p = sample.product
    a, bs = p.a.values(), [b.values() for b in p.b]
    if p.want.shape[0] == p.want.shape[1]:
        yield "the output is transposed", "The result is [M, N], N contiguous.", sample.at(p.want.T)
    first, names = _NAMES[p.op]
    for index, name in enumerate(names):
        misread = list(bs)
        misread[index] = bs[index].reshape(bs[index].shape[1], bs[index].shape[0]).T
        parts = [b[sample.columns] for b in misread]
        value = _combine(p.op, a[sample.rows], parts)
        yield f"{name} is read as [K, N] (transposed)", f"{name} has K contiguous.", value
    if p.op.dual:
        left = a[sample.rows]
        gate, up = (left @ b[sample.columns].T for b in bs)
        yield "B1 and B2 are exchanged", "SiLU is applied to A B1^T.", up * torch.sigmoid(up) * gate
        yield "SiLU is not applied", "The result is silu(A B1^T) * (A B2^T).", gate * up
        yield "the sigmoid is applied without its argument", "silu(x) = x * sigmoid(x).", torch.sigmoid(gate) * up
    k = a.shape[1]
    for tail in (16, 32, 48, 64, 96, 112, 128, 192, 256, 512):
        for remainder in {tail, k % tail}:
            if 0 < remainder < k:
                kept = slice(0, k - remainder)
                value = _combine(p.op, a[sample.rows][:, kept], [b[sample.columns][:, kept] for b in bs])
                yield f"the last {remainder} elements along K are lost", "Check the tail of the K loop.", value
    weights = " and ".join(names)
    for name, other_a, other_b in p.others:
        yield (
            f"{first} of {name} is read instead",
            "Check the offset of the batch or group.",
            sample.compute(other_a, p.b),
        )
        if other_b[0].values().shape[0] > int(sample.columns.max()):
            yield (
                f"{weights} of {name} {'is' if len(names) == 1 else 'are'} read instead",
                "Check the offset of the batch or group.",
                sample.compute(p.a, other_b),
            )
            yield (
                f"{first}{', ' if len(names) > 1 else ' and '}{weights} of {name} are read instead",
                "Check the offset of the batch.",
                sample.compute(other_a, other_b),
            )


def _range(hit: torch.Tensor) -> str:
    """ "128..255" or "a, b, c" of the indices where `hit` is set."""
    index = hit.nonzero().flatten()
    first, last = int(index[0]), int(index[-1])
    return f"{first}..{last}" if last - first + 1 == index.numel() else f"{index.numel()} between {first} and {last}"


def _patterns(p: Product) -> list[Diagnosis]:
    """Explanations that need no hypothesis about values: what was never written, what is lost from a row on."""
    found = []
    wrong = _wrong(p)
    if p.unwritten is not None and bool(p.unwritten.any()):
        share = float(p.unwritten.sum() / wrong.sum().clamp(min=1))
        rows, columns = p.unwritten.any(1), p.unwritten.any(0)
        cause = f"{int(p.unwritten.sum())} elements are never written: rows {_range(rows)}, columns {_range(columns)}"
        found.append(Diagnosis(cause, min(share, 1.0), "Check the grid size and the bounds of the epilogue."))
    for axis, hit in (("rows", wrong.any(1)), ("columns", wrong.any(0))):
        whole = wrong.all(1) if axis == "rows" else wrong.all(0)
        first = int(hit.nonzero()[0])
        if 0 < first < hit.numel() - 1 and bool(hit[first:].all()) and float(whole[first:].double().mean()) > 0.9:
            cause = f"{axis} from {first} on are lost: all before are right, all from there on wrong"
            tile = next((t for t in (256, 192, 128, 96, 64, 48, 32, 16, 8) if first % t == 0), 0)
            hint = f"{first} is a multiple of a {tile}-wide tile: " if tile else ""
            found.append(Diagnosis(cause, 1.0, f"{hint}check the tile loop and the bounds of ragged {axis}."))
    return found


def _half_accumulation(p: Product) -> Diagnosis | None:
    """Errors too large for fp32 sums and just right for fp16 ones, everywhere, or overflow of intermediates."""
    if p.op.dual:
        return None
    wrong = (p.got - p.want).abs() > 2 * p.epsilon * p.want.abs() + 2.0**-18 * p.magnitude
    wrong |= ~torch.isfinite(p.got) & (p.want.abs() < p.largest)
    if not bool(wrong.any()):
        return None
    k = p.a.values().shape[1]
    finite = torch.isfinite(p.got)
    explained = (p.got - p.want).abs() <= (2.0**-11) * math.sqrt(k) * p.magnitude + 2 * p.epsilon * p.want.abs()
    overflow = ~finite & (p.magnitude > 60000)
    share = float((explained & finite | overflow)[wrong].double().mean())
    relative = ((p.got - p.want).abs() / p.magnitude.clamp(min=1e-30))[wrong & finite]
    small = float(relative.median()) if relative.numel() else 0.0
    if share < FIT or small > 0.02:
        return None
    kind = (
        "overflow to infinity"
        if bool(overflow.any())
        else f"errors of about {small:.1e} of the sum of absolute products"
    )
    return Diagnosis(f"accumulation in fp16: {kind}", share, "Accumulate in fp32 and convert once at the end.")


def diagnose(product: Product) -> tuple[Diagnosis, ...]:
    """The explanations that fit a wrong product, best first; empty when none does (or nothing is wrong)."""
    found: list[Diagnosis] = []
    if bool(_wrong(product).any()):
        found += _patterns(product)
        sample = _Sample(product)
        if bool((~torch.isfinite(product.got) & (product.want.abs() < product.largest)).any()):
            half = _half_accumulation(product)
            found += [half] if half else []
        for candidates in (_operand_candidates(sample), _structure_candidates(sample)):
            for cause, remedy, value in candidates:
                share = sample.share(value)
                if share >= FIT:
                    found.append(Diagnosis(cause, share, remedy))
    if not found and (half := _half_accumulation(product)):
        found.append(half)
    # The same values can have several names (a shift of constant scales, say): the simplest, listed first, wins ties.
    return tuple(sorted(found, key=lambda d: -d.share))
