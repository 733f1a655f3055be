"""Each diagnosis with its fault planted: the cause named first must be the planted one, and a right result has none."""

from dataclasses import replace

import pytest
import torch

from nvfp4.check import inputs
from nvfp4.check.diagnosis import Product, Side, diagnose, side
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import expected, judge
from nvfp4.problem import Format, Op, Problem

EPS = 2.0**-11


def _product(op=Op.GEMM, m=80, n=96, k=320, fa=Format(), fb=Format(), distribution="uniform", seed=0):  # noqa: B008
    problem = Problem(op, m, n, k, a=fa, b=fb)
    operands = inputs.make(problem, distribution, seed)
    a, b = side(operands.a[0], None), tuple(side(x, None) for x in operands.b)
    return a, b


def _compute(op: Op, a: Side, b: tuple[Side, ...]) -> torch.Tensor:
    products = [a.values() @ x.values().T for x in b]
    return products[0] if op is not Op.DUAL_GEMM else products[0] * torch.sigmoid(products[0]) * products[1]


def _magnitude(op: Op, a: Side, b: tuple[Side, ...]) -> torch.Tensor:
    products = [a.values().abs() @ x.values().abs().T for x in b]
    return products[0] if op is not Op.DUAL_GEMM else products[0] * products[1]


def _case(op, a, b, got, **more) -> Product:
    half = got.to(torch.float16).double() if not more.pop("exact", False) else got
    return Product(op, a, b, half, _compute(op, a, b), _magnitude(op, a, b), EPS, 65504.0, **more)


def _first(product: Product) -> str:
    found = diagnose(product)
    assert found, "nothing was found"
    return found[0].cause


def _scales(s: Side, scales: torch.Tensor) -> Side:
    return Side(s.codes, scales, s.layout, s.stored, s.tensor_scale, s.dense)


def test_a_right_result_has_no_diagnosis():
    a, b = _product()
    assert diagnose(_case(Op.GEMM, a, b, _compute(Op.GEMM, a, b))) == ()


@pytest.mark.parametrize("which", ["A", "B", "A and B"])
def test_swapped_nibbles(which):
    # The planted fault swaps the nibbles of packed bytes, not by the diagnosis' own function.
    a, b = _product()

    def swapped(s: Side) -> Side:
        codes = torch.empty_like(s.codes)
        codes[:, 0::2], codes[:, 1::2] = s.codes[:, 1::2], s.codes[:, 0::2]
        return Side(codes, s.scales, s.layout, s.stored, s.tensor_scale)

    if which == "A and B":  # swapping both permutes K within a block: nothing changes, nothing may be reported
        assert diagnose(_case(Op.GEMM, a, b, _compute(Op.GEMM, swapped(a), (swapped(b[0]),)))) == ()
        return
    got = _compute(Op.GEMM, swapped(a) if "A" in which else a, (swapped(b[0]),) if "B" in which else b)
    assert _first(_case(Op.GEMM, a, b, got)) == "the nibbles of A or B (one of them, not both) are swapped"


@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("which", ["A", "B", "A and B"])
def test_scales_in_the_wrong_layout(layout, which):
    form = Format(scale_layout=layout)
    a, b = _product(m=256, n=128, k=512, fa=form, fb=form)

    def misread(s: Side) -> Side:
        rows, blocks = s.scales.shape  # multiples of a tile here, so both layouts have the same bytes
        scales = torch.empty_like(s.scales)
        values = s.stored.view(torch.float8_e4m3fn).double()
        for r in range(rows):
            for j in range(blocks):
                tiled = (r // 128 * (blocks // 4) + j // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + j % 4
                scales[r, j] = values[tiled if layout == "linear" else r * blocks + j]
        return _scales(s, scales)

    got = _compute(Op.GEMM, misread(a) if "A" in which else a, (misread(b[0]),) if "B" in which else b)
    direction = "tiles read as linear" if layout == "tiled" else "linear read as tiles"
    assert _first(_case(Op.GEMM, a, b, got)) == f"the scales of {which} are read in the wrong layout ({direction})"


@pytest.mark.parametrize(("by", "suffix"), [(1, ""), (-1, " (backwards)")])
def test_scales_shifted_by_a_block(by, suffix):
    a, b = _product()
    shifted = _scales(a, a.scales.flatten().roll(by).view_as(a.scales))
    assert (
        _first(_case(Op.GEMM, a, b, _compute(Op.GEMM, shifted, b)))
        == f"the scales of A are shifted by one block{suffix}"
    )


def test_scales_of_the_neighbouring_row():
    a, b = _product()
    got = _compute(Op.GEMM, a, (_scales(b[0], b[0].scales.roll(1, 0)),))
    assert _first(_case(Op.GEMM, a, b, got)) == "the scales of B are taken from the row before"


def test_block_scales_not_applied():
    a, b = _product()
    got = _compute(Op.GEMM, a, (_scales(b[0], torch.ones_like(b[0].scales)),))
    assert _first(_case(Op.GEMM, a, b, got)) == "the block scales of B are not applied"


def test_subnormal_scales_flushed():
    a, b = _product(distribution="all-scales")
    b = (b[0],)
    quiet = torch.where(b[0].scales.abs() < 2.0**-3, 2.0**-9, 2.0**-8)  # subnormals matter in each sum
    small = _scales(b[0], quiet.clone())
    small.scales[:, ::2] = 2.0**-5
    got = _compute(Op.GEMM, a, (_scales(small, torch.where(small.scales < 2.0**-6, 0.0, small.scales)),))
    assert _first(_case(Op.GEMM, a, (small,), got, exact=True)) == "the subnormal scales of B are flushed to zero"


@pytest.mark.parametrize(("fault", "cause"), [("missing", "missing"), ("inverted", "inverted")])
def test_tensor_scale(fault, cause):
    form = Format(tensor_scale=True)
    a, b = _product(fa=form)
    assert a.tensor_scale != 1
    planted = 1.0 if fault == "missing" else 1 / a.tensor_scale
    wrong = Side(a.codes, a.scales, a.layout, a.stored, planted)
    assert _first(_case(Op.GEMM, a, b, _compute(Op.GEMM, wrong, b), exact=True)) == f"the tensor scale of A is {cause}"


def test_signs_lost():
    a, b = _product()
    wrong = Side(a.codes & 7, a.scales, a.layout, a.stored, 1.0)
    assert _first(_case(Op.GEMM, a, b, _compute(Op.GEMM, wrong, b))) == "the signs of A are lost"


def test_b_transposed():
    a, b = _product(n=320, k=320)
    got = a.values() @ b[0].values()
    assert _first(_case(Op.GEMM, a, b, got)) == "B is read as [K, N] (transposed)"


def test_b_transposed_when_not_square():
    a, b = _product(n=96, k=320)
    got = a.values() @ b[0].values().reshape(320, 96)
    assert _first(_case(Op.GEMM, a, b, got)) == "B is read as [K, N] (transposed)"


def test_output_transposed():
    a, b = _product(m=96, n=96)
    assert _first(_case(Op.GEMM, a, b, _compute(Op.GEMM, a, b).T)) == "the output is transposed"


def test_fp16_accumulation():
    # Adding 16 products at a time to an fp16 accumulator, as an HMMA with fp16 accumulators does.
    a, b = _product(k=2048, distribution="gaussian")
    left, right = a.values(), b[0].values()
    total = torch.zeros(left.shape[0], right.shape[0], dtype=torch.float16)
    for begin in range(0, 2048, 16):
        part = left[:, begin : begin + 16] @ right[:, begin : begin + 16].T
        total = (total.double() + part).to(torch.float16)
    assert _first(_case(Op.GEMM, a, b, total.double())).startswith("accumulation in fp16: errors of about")


def test_fp16_overflow_of_intermediates():
    a, b = _product(k=64, distribution="largest")
    # Largest scales on both sides: 448 * 448 does not fit fp16, the kernel's scale product becomes infinite.
    scale = (a.scales[:, None, :] * b[0].scales[None]).to(torch.float16).double()
    codes = [Side(s.codes, torch.ones_like(s.scales), "linear", s.stored, 1.0).values() for s in (a, b[0])]
    blocks = [x.unflatten(-1, (-1, 16)) for x in codes]
    parts = torch.einsum("mjk,njk->mnj", *blocks)
    got = torch.where(parts == 0, 0.0, parts * scale).sum(-1)
    want, magnitude = _compute(Op.GEMM, a, b), _magnitude(Op.GEMM, a, b)
    product = Product(Op.GEMM, a, b, got, want, magnitude, 2.0**-24, torch.finfo(torch.float32).max)
    assert not torch.isfinite(got).all()
    assert _first(product).startswith("accumulation in fp16: overflow to infinity")


@pytest.mark.parametrize("tile", [64, 16])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_rows_beyond_a_tile_lost(axis, tile):
    a, b = _product()
    got = _compute(Op.GEMM, a, b)
    if axis == "rows":
        got[tile:] = 0
    else:
        got[:, tile:] = 0
    assert _first(_case(Op.GEMM, a, b, got)).startswith(f"{axis} from {tile} on are lost")


def test_unwritten_elements_are_counted_and_placed():
    a, b = _product()
    got = _compute(Op.GEMM, a, b)
    unwritten = torch.zeros(got.shape, dtype=torch.bool)
    unwritten[64:, 32:48] = True
    got[unwritten] = float("nan")
    assert (
        _first(_case(Op.GEMM, a, b, got, unwritten=unwritten))
        == "256 elements are never written: rows 64..79, columns 32..47"
    )


@pytest.mark.parametrize("tail", [16, 64])
def test_tail_of_k_lost(tail):
    a, b = _product(k=320)
    got = a.values()[:, :-tail] @ b[0].values()[:, :-tail].T
    assert _first(_case(Op.GEMM, a, b, got)) == f"the last {tail} elements along K are lost"


def test_ragged_tail_of_k_lost():
    a, b = _product(k=336)  # 336 = 2 * 128 + 80: a kernel with K tiles of 128 that drops the ragged one
    got = a.values()[:, :256] @ b[0].values()[:, :256].T
    assert _first(_case(Op.GEMM, a, b, got)) == "the last 80 elements along K are lost"


def test_wrong_batch():
    a, b = _product(seed=1)
    other_a, other_b = _product(seed=2)
    got = _compute(Op.GEMM, other_a, b)
    others = (("batch 0", other_a, other_b),)
    assert _first(_case(Op.GEMM, a, b, got, others=others)) == "A of batch 0 is read instead"


def test_dual_faults():
    a, b = _product(Op.DUAL_GEMM, k=64, distribution="signed-zeros")
    gate, up = (a.values() @ x.values().T for x in b)
    silu = torch.nn.functional.silu
    cases = {
        "B1 and B2 are exchanged": silu(up) * gate,
        "SiLU is not applied": gate * up,
        "the sigmoid is applied without its argument": torch.sigmoid(gate) * up,
    }
    for cause, got in cases.items():
        assert _first(_case(Op.DUAL_GEMM, a, b, got)) == cause


def _grouped_dual(groups=(), stacked=0):
    m, n, k = 60, 48, 320
    problem = Problem(Op.GROUP_DUAL_GEMM, m, n, k, out_dtype="fp32", groups=groups, stacked=stacked)
    operands = inputs.make(problem, "contest", 0)
    return problem, *poison_outputs(operands)


def _cause(problem, operands, outputs) -> str:
    verdict = judge(problem, operands, outputs)
    assert not verdict.ok
    return verdict.diagnoses[0].cause


@pytest.mark.parametrize("form", ["list", "stacked"])
def test_grouped_dual_gate_and_up_exchanged(form):
    groups = ((20, 48, 320), (40, 48, 320)) if form == "list" else ()
    problem, operands, outputs = _grouped_dual(groups, 0 if groups else 3)
    count = len(groups) or 1
    exchanged = replace(operands, b=operands.b[count:] + operands.b[:count])
    for out, want in zip(operands.out, expected(problem, exchanged), strict=True):
        out.copy_(want.rounded)
    assert _cause(problem, operands, outputs) == "B1 and B2 are exchanged"


def test_grouped_dual_reads_the_weights_of_another_group():
    groups = ((20, 48, 320), (40, 48, 320))
    problem, operands, outputs = _grouped_dual(groups)
    b = operands.b
    wrong = replace(operands, b=(b[1], b[1], b[3], b[3]))
    for out, want in zip(operands.out, expected(problem, wrong), strict=True):
        out.copy_(want.rounded)
    assert _cause(problem, operands, outputs) == "B1 and B2 of group 1 are read instead"
