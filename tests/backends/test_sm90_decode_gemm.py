"""GEMM and dual GEMM of 16-bit activations on Hopper without a GPU: which products, plans, and machine code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.backends import sass

from nvfp4 import jit
from nvfp4.backends.sm90 import BACKEND, decode_gemm
from nvfp4.backends.sm90.decode_gemm import DecodePlan
from nvfp4.backends.sm90.plan import THREADS
from nvfp4.check import inputs
from nvfp4.device import known
from nvfp4.executors import parameters
from nvfp4.problem import Format, Op, Problem

HOPPER = known("sm_90a")
TILED, LINEAR = Format("nvfp4", "tiled"), Format("nvfp4", "linear")
FP16, BF16 = Format("fp16", ""), Format("bf16", "")
SHAPES = [(m, n, k) for n, k in ((8192, 7168), (4096, 14336), (28672, 4096), (130, 512)) for m in (24, 100, 300, 4096)]


def gemm(m: int, n: int, k: int, a: Format = BF16, b: Format = LINEAR, out: str = "bf16", batches: int = 1) -> Problem:
    return Problem(Op.GEMM, m, n, k, l=batches, a=a, b=b, out_dtype=out)


def dual(problem: Problem) -> Problem:
    return replace(problem, op=Op.DUAL_GEMM)


def test_what_it_serves():
    assert decode_gemm.serves(gemm(64, 128, 512))
    assert decode_gemm.serves(gemm(64, 128, 320, b=TILED))
    assert not decode_gemm.serves(gemm(64, 128, 320))  # rows of 20 scales: not a whole number of 16 bytes
    assert not decode_gemm.serves(gemm(8, 128, 512))
    assert not decode_gemm.serves(gemm(64, 128, 512, a=LINEAR))
    assert not decode_gemm.serves(gemm(64, 0, 512))
    assert decode_gemm.serves(dual(gemm(64, 128, 512)))
    assert not decode_gemm.serves(dual(gemm(64, 128, 512, b=TILED)))  # 64 rows of each matrix are half a tile of scales


@pytest.mark.parametrize("form", [gemm, lambda *args, **options: dual(gemm(*args, **options))], ids=["gemm", "dual"])
@pytest.mark.parametrize("out", ["bf16", "fp32"])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_plans_fit_the_device(m, n, k, out, form):
    problem = form(m, n, k, out=out)
    found = decode_gemm.plans(HOPPER, problem)
    assert decode_gemm.plan(HOPPER, problem)[1] in found
    for plan in found:
        assert 1 <= plan.grid <= HOPPER.sms
        assert plan.grid % plan.share == 0
        assert plan.share <= 2 or plan.whole, "clusters that wait for one another may not fit at once"
        assert plan.rounds == 0 or not plan.whole
        assert 0 <= plan.sharers <= plan.grid // plan.share
        assert plan.shared_bytes <= HOPPER.shared_bytes
        assert plan.tokens % (8 * plan.share) == 0
        assert plan.tokens <= 256


def test_large_products_have_wide_tiles_and_few_tokens_shares_of_k():
    large = BACKEND.plan(HOPPER, gemm(4096, 8192, 7168))
    assert isinstance(large, DecodePlan)
    _, few = decode_gemm.plan(HOPPER, gemm(64, 8192, 7168))  # where the other kernel may be faster
    assert (large.tokens, large.share, large.whole) == (256, 2, True)
    assert (few.tokens, few.whole) == (64, False)


# bf16 takes more instructions than fp16, and fp32 results more registers: a narrow and a wide tile of fp16 results will
# do.
FORMS = [
    (a, out, tokens) for a, out in ((BF16, "bf16"), (FP16, "fp32")) for tokens in (32, 64, 112, 128, 144, 208, 256)
]
FORMS += [(FP16, "fp16", tokens) for tokens in (64, 256)]


@pytest.mark.sampled(5)  # of twice 16, so that both operations have forms of their own
@pytest.mark.parametrize(("a", "out", "tokens"), FORMS)
@pytest.mark.parametrize("op", [Op.GEMM, Op.DUAL_GEMM])
def test_kernels_keep_to_registers_and_the_matrix_unit_is_not_serialized(op, a, out, tokens, tmp_path):
    """Of every plan for such tiles; as test_sm90_gemm.py."""
    problem = replace(gemm(tokens, 8192, 7168, a=a, out=out), op=op)
    small = replace(problem, m=24, n=16, k=256)
    operands = inputs.make(small)
    kernels = {}
    for plan in decode_gemm.plans(HOPPER, problem):
        memory = decode_gemm.needs(replace(plan, grid=plan.share)).allocate(operands.out[0].device)
        (launch,) = decode_gemm.launches(replace(plan, grid=plan.share), small, operands, memory)
        assert launch.programmatic
        assert len(parameters.build(launch.args).data) <= 32764
        kernels[launch.kernel] = plan
    assert kernels
    tool = sass.disassembler()
    for kernel, plan in kernels.items():
        artifact = jit.compile(kernel)
        assert artifact.resources is not None
        assert artifact.resources.local_bytes == 0, f"{kernel}: {artifact.resources}"
        assert artifact.resources.registers * THREADS <= 65536
        assert "serialized" not in artifact.log
        if tool is None:
            continue
        (tmp_path / "kernel.cubin").write_bytes(artifact.code)
        text = sass.listing(tmp_path / "kernel.cubin", tool)
        # Four instructions for each unit of a chunk.
        assert text.count(f"HGMMA.64x{plan.tokens}x16") == 16
        assert "BF16" in text if a is BF16 else "F32" in text
        assert "LDL" not in text
        assert "STL" not in text
        code = sass.instructions(text)
        assert not [f"{kernel}: {zero} / {reader}" for zero, reader in sass.early_readers(code)]
    if tool is None:
        pytest.skip("no cuobjdump: neither on the path nor in a Triton package")


def test_results_without_elements_take_no_launch():
    empty = gemm(0, 16, 256)
    assert BACKEND.launches(BACKEND.plan(HOPPER, empty), empty, inputs.make(empty)) == ()
