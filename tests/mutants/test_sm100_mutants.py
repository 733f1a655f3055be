"""The Blackwell kernels with one line changed: the emulator, or the checker behind it, must say so."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
import torch

from hw import sm100_plans
from mutants.changing import STRICT, WRONG, Change, make, marked
from nvfp4.backends.base import Operands
from nvfp4.backends.sm100.constants import Cluster, Schedule
from nvfp4.backends.sm100.decode import DecodePlan
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.errors import LaunchError
from nvfp4.executors import emulated
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

TILED, LINEAR = Format("nvfp4", "tiled"), Format("nvfp4", "linear")

PLAIN = ProductPlan("sm_100a", tile_n=64, stages=2, sets=2, signed=False, sms=2)
PROBLEM = Problem(Op.GEMM, 200, 200, 1024, 1, TILED, TILED, "fp32")
SCALES = replace(PLAIN, signed=True, stages=3)
RAGGED = Problem(Op.GEMM, 100, 100, 288, 1, TILED, TILED, "fp32")
PAIR, SHARED_X = replace(PLAIN, cluster=Cluster.PAIR), replace(PLAIN, cluster=Cluster.MULTICAST)
SPLIT = replace(PLAIN, splits=2, sms=148)
TAKEOVER = replace(PLAIN, schedule=Schedule.TAKEOVER)
DUAL = replace(PLAIN, products=2, finish=2)
HALVES = replace(PLAIN, cluster=Cluster.HALVES, tile_n=256)
STAGED = replace(PLAIN, staged=True)
ONE_COPY = replace(SHARED_X, share_scales=True)  # of the scales of X, for both blocks
PATCHED = replace(PLAIN, patched=True)
DECODE = DecodePlan("sm_100a", 32, stages=4, sms=2)
WIDE = Problem(Op.GEMM, 60, 200, 1024, 1, Format("fp16", ""), TILED, "fp32")
WIDE_RAGGED = replace(WIDE, k=288)
GROUPS = Problem(
    Op.GROUP_GEMM,
    331,
    200,
    1024,
    1,
    TILED,
    TILED,
    "fp32",
    groups=((100, 64, 1024), (30, 72, 512), (129, 200, 768), (72, 64, 256)),
)
PAIR_COPY = replace(PAIR, share_scales=True)  # of the scales of Y
DUAL_PROBLEM = Problem(Op.DUAL_GEMM, 130, 130, 1024, 1, TILED, TILED, "fp32")


@dataclass(frozen=True)
class Mutant(Change):
    """Under `plan` and `problem`."""

    plan: ProductPlan | DecodePlan = PLAIN
    problem: Problem = PROBLEM
    data: str = "uniform"


ROLES, WORK, SHAPE = "pipeline/sm100_roles.cuh", "pipeline/sm100_work.cuh", "pipeline/sm100_shape.cuh"
STORE, PREPARE, BLOCK = "epilogue/sm100_store.cuh", "pipeline/sm100_scales.cuh", "pipeline/sm100_block.cuh"
GEMM, TCGEN05, DECODING = "kernels/sm100_gemm.cu", "ptx/tcgen05.cuh", "kernels/sm100_decode_gemm.cu"

MUTANTS = (
    Mutant("no wait for the copies", ROLES, "wait_barrier(memory.full(ring.index), ring.parity);", "", "race|uninit"),
    Mutant(
        "no wait for a free stage",
        ROLES,
        "wait_barrier(memory.empty(ring.index), ring.parity ^ 1);\n            expect",
        "expect",
        "race|mbarrier",
    ),
    Mutant(
        "free stage, wrong phase",
        ROLES,
        "wait_barrier(memory.empty(ring.index), ring.parity ^ 1);\n            expect",
        "wait_barrier(memory.empty(ring.index), ring.parity);\n            expect",
        "deadlock",
    ),
    Mutant(
        "full stage, wrong phase",
        ROLES,
        "wait_barrier(memory.full(ring.index), ring.parity);",
        "wait_barrier(memory.full(ring.index), ring.parity ^ 1);",
        "race|uninit|deadlock",
    ),
    Mutant(
        "stages never freed",
        ROLES,
        "if (chunk < together) commit_to_cluster<S>(memory.empty(ring.index));",
        "",
        "deadlock",
    ),
    Mutant(
        "fewer bytes expected",
        ROLES,
        "S::COPIED_BYTES * (AT_LEADER ? 2 : 1)",
        "S::COPIED_BYTES - 2048",
        "mbarrier|race",
    ),
    Mutant("more bytes expected", ROLES, "S::COPIED_BYTES * (AT_LEADER ? 2 : 1)", "S::COPIED_BYTES + 2048", "deadlock"),
    Mutant(
        "no wait for a drained accumulator",
        ROLES,
        "wait_barrier_of<S>(memory.drained(out.index), out.parity ^ 1);",
        "",
        "race",
    ),
    Mutant(
        "accumulator never drained",
        STORE,
        "if (thread % 32 == 0) memory.arrive_at_leader(memory.drained(in.index));",
        "",
        "deadlock",
    ),
    Mutant("no wait for the products", STORE, "wait_barrier(memory.done(in.index), in.parity);", "", "race|uninit"),
    Mutant(
        "no fence behind that wait",
        STORE,
        "wait_barrier(memory.done(in.index), in.parity);\n        tcgen05_fence_after_thread_sync();",
        "wait_barrier(memory.done(in.index), in.parity);",
        "race|tcgen05",
    ),
    Mutant(
        "no wait for tensor memory",
        STORE,
        "d + p * S::D_COLUMNS + column);\n            tcgen05_wait_ld();",
        "d + p * S::D_COLUMNS + column);",
        "race|wait|uninit",
    ),
    Mutant("wrong lanes", STORE, "const u32 lanes = thread / 32 * 32 << 16;", "const u32 lanes = 0;", "lane"),
    Mutant(
        "tensor memory not freed",
        BLOCK,
        "if (warp == S::PRODUCT_WARP) tcgen05_dealloc<S::GROUP>(tensor, S::COLUMNS);",
        "",
        "dealloc|leak|freed",
    ),
    Mutant(
        "freed while in use",
        BLOCK,
        "    synchronise<S>();\n    if (warp == S::PRODUCT_WARP) tcgen05_dealloc",
        "    if (warp == S::PRODUCT_WARP) tcgen05_dealloc",
        "race|dealloc|allocat",
    ),
    Mutant("next tile of X", GEMM, "index.x * S::TILE_M + (S::PAIR", "(index.x + 1) * S::TILE_M + (S::PAIR", WRONG),
    Mutant(
        "one row too far",
        GEMM,
        "                  x_row(index), x_rows, index.batch,",
        "                  x_row(index) + 1, x_rows, index.batch,",
        WRONG,
    ),
    Mutant(
        "scales of the step before",
        ROLES,
        "INSTRUCTION, columns + 4 * step, y_scale",
        "INSTRUCTION, columns, y_scale",
        WRONG,
    ),
    Mutant("second half of a scale tile forgotten", ROLES, "tile.y[p].row / 64 % 2 * 2 : 0", "0 : 0", WRONG),
    Mutant(
        "one scale column off",
        ROLES,
        "const u32 y_scale = columns + S::X_SCALE_COLUMNS",
        "const u32 y_scale = columns + 1 + S::X_SCALE_COLUMNS",
        WRONG + "|uninit",
    ),
    Mutant(
        "other swizzle",
        ROLES,
        "tcgen05_matrix<TCGEN05_SWIZZLE_128>(memory.x(stage)",
        "tcgen05_matrix<TCGEN05_SWIZZLE_NONE>(memory.x(stage)",
        WRONG,
    ),
    Mutant("half of N", TCGEN05, "n / 8 << 17", "n / 16 << 17", WRONG + "|uninit"),
    Mutant(
        "first chunk not started anew",
        ROLES,
        "const u32 accumulate = chunk > chunks.begin || step > 0;",
        "const u32 accumulate = 1;",
        WRONG + "|uninit",
    ),
    Mutant(
        "scales seen by generic writes only",
        PREPARE,
        "fence_proxy_async_shared_cta();",
        "",
        "proxy",
        replace(SCALES),
        replace(PROBLEM, a=LINEAR),
    ),
    Mutant(
        "another lane arrives",
        PREPARE,
        "if (threadIdx.x % 32 == 0) memory.arrive_at_leader",
        "if (threadIdx.x % 32 == 31) memory.arrive_at_leader",
        "",
        SCALES,
        replace(PROBLEM, a=LINEAR),
    ),
    Mutant(
        "scale warps do not wait for a free stage",
        PREPARE,
        "wait_barrier(memory.empty(ring.index), ring.parity ^ 1);",
        "",
        "race",
        SCALES,
        replace(PROBLEM, a=LINEAR),
    ),
    Mutant(
        "signs of scales ignored",
        PREPARE,
        "block.negate(codes, first, rows);",
        "",
        WRONG,
        SCALES,
        PROBLEM,
        "all-scales",
    ),
    Mutant("padding of scales kept", PREPARE, "words[q][step] &= mask;", "", WRONG, SCALES, RAGGED, "padding"),
    Mutant("one owner for two", SHAPE, "S::MULTICAST ? 2 : 1", "1", "mbarrier|race|deadlock", SHARED_X),
    Mutant(
        "half of X twice",
        ROLES,
        "memory.x(stage) + first * LINE_BYTES",
        "memory.x(stage)",
        "race|uninit|wrong",
        SHARED_X,
    ),
    Mutant(
        "commit to one block",
        ROLES,
        "if constexpr (S::BLOCKS > 1) {\n        tcgen05_commit_multicast<S::GROUP>(barrier, 3);",
        "if constexpr (S::BLOCKS > 1) {\n        tcgen05_commit<S::GROUP>(barrier);",
        "deadlock",
        PAIR,
    ),
    Mutant(
        "rows of the other block", ROLES, "S::PAIR ? static_cast<int>(memory.rank) * S::Y_ROWS : 0", "0", WRONG, PAIR
    ),
    Mutant(
        "parts counted before they are written",
        STORE,
        "barrier_sync(NUMBER, THREADS);  // all parts of this block are written",
        "",
        "race",
        SPLIT,
    ),
    Mutant(
        "sums read before the last part",
        STORE,
        "ld_shared_b32(flag) == SPLITS - 1",
        "ld_shared_b32(flag) == 0",
        "race|uninit|wrong",
        SPLIT,
    ),
    Mutant(
        "answer overwritten",
        WORK,
        "wait_barrier_cluster(memory.taken(ring.index), ring.parity ^ 1);",
        "",
        "race|mbarrier|deadlock|wrong",
        TAKEOVER,
    ),
    Mutant(
        "gate before its sums",
        STORE,
        "wait_barrier(memory.gated(in.index), in.parity);",
        "",
        "race|uninit",
        DUAL,
        DUAL_PROBLEM,
    ),
    Mutant(
        "both halves of the lanes with the same scales",
        ROLES,
        "tcgen05_cp_64x128b_warpx2_01_23<S::GROUP>(to,",
        "tcgen05_cp_32x128b_warpx4<S::GROUP>(to,",
        WRONG,
        HALVES,
    ),
    Mutant(
        "both halves of the lanes to the same columns",
        STORE,
        "static_cast<int>(thread) / S::X_ROWS * S::D_COLUMNS;",
        "0;",
        "race|wrong",
        HALVES,
    ),
    Mutant(
        "rows of the leader twice",
        "kernels/sm100_gemm.cu",
        "(S::PAIR ? static_cast<int>(rank) * S::X_ROWS : 0)",
        "0",
        "race|wrong",
        HALVES,
    ),
    Mutant(
        "the same half of the scales from both blocks",
        ROLES,
        "const int first = static_cast<int>(rank) * HALF;\n        to +=",
        "const int first = 0;\n        to +=",
        "race|uninit|wrong",
        ONE_COPY,
    ),
    Mutant(
        "scales of a pair counted by each block",
        ROLES,
        "cp_async_bulk_tensor_3d_multicast_cta_group_2_policy(to, map, 0,",
        "cp_async_bulk_tensor_3d_multicast_policy(to, map, 0,",
        "race|mbarrier|deadlock|uninit",
        PAIR_COPY,
    ),
    Mutant(
        "staged results seen by generic writes only",
        STORE,
        "                fence_proxy_async_shared_cta();\n                __syncwarp();\n",
        "                __syncwarp();\n",
        "proxy",
        STAGED,
    ),
    Mutant(
        "maps of the group before",
        "pipeline/sm100_maps.cuh",
        "if (wanted != group) {",
        "if (group < 0) {",
        WRONG,
        PATCHED,
        GROUPS,
    ),
    Mutant(
        "rows of the group before",
        "pipeline/sm100_maps.cuh",
        "        tensormap_replace_global_dim<1>(map, operand.rows);\n",
        "",
        "out-of-bounds|wrong",
        PATCHED,
        GROUPS,
    ),
    Mutant(
        "maps changed, but not acquired",
        "pipeline/sm100_maps.cuh",
        "for (int i = 0; i < PATCHED_MAPS; ++i) fence_proxy_tensormap_generic_acquire_gpu(at(i));",
        "for (int i = 1; i < PATCHED_MAPS; ++i) fence_proxy_tensormap_generic_acquire_gpu(at(i));",
        "proxy",
        PATCHED,
        GROUPS,
    ),
    Mutant(
        "weights decoded before they are there",
        DECODING,
        "wait_barrier(memory.full(ring.index), ring.parity);",
        "",
        "race|uninit",
        DECODE,
        WIDE,
    ),
    Mutant(
        "decoded weights seen by generic writes only",
        DECODING,
        "fence_proxy_async_shared_cta();",
        "",
        "proxy",
        DECODE,
        WIDE,
    ),
    Mutant(
        "products before weights are decoded",
        DECODING,
        "wait_barrier(memory.ready(ring.index), ring.parity);",
        "",
        "race|uninit",
        DECODE,
        WIDE,
    ),
    Mutant(
        "stage of weights not waited for",
        DECODING,
        "            wait_barrier(memory.empty(ring.index), ring.parity ^ 1);\n            mbarrier_arrive_expect",
        "            mbarrier_arrive_expect",
        "race|mbarrier",
        DECODE,
        WIDE,
    ),
    Mutant(
        "a decoder a round ahead",
        DECODING,
        "            wait_barrier(memory.empty(ring.index), ring.parity ^ 1);\n            wait_barrier(memory.full",
        "            wait_barrier(memory.full",
        "race|uninit|deadlock|mbarrier|wrong",
        replace(DECODE, stages=5),
        WIDE,
    ),
    Mutant(
        "stages of weights never freed",
        DECODING,
        "tcgen05_commit<1>(memory.empty(ring.index));",
        "",
        "deadlock",
        DECODE,
        WIDE,
    ),
    Mutant(
        "scale of the block before",
        DECODING,
        "decoded(codes.z, second)",
        "decoded(codes.z, first)",
        WRONG,
        DECODE,
        WIDE,
    ),
    Mutant(
        "padding of scales decoded", DECODING, "words[q] & mask;", "words[q];", WRONG, DECODE, WIDE_RAGGED, "padding"
    ),
    Mutant(
        "other swizzle of decoded weights",
        DECODING,
        "(line + 1 ^ (row & 7))",
        "(line + 1 ^ (row & 3))",
        WRONG,
        DECODE,
        WIDE,
    ),
    Mutant(
        "first product not finished early",
        ROLES,
        "commit_to_owners<S>(memory.gated(out.index));",
        "",
        "deadlock",
        DUAL,
        DUAL_PROBLEM,
    ),
    Mutant(
        "columns of C as rows",
        STORE,
        "static_cast<i64>(y0 + i) * target.pitch + row, value[i]);",
        "static_cast<i64>(row) * target.pitch + y0 + i, value[i]);",
        "out-of-bounds|race|wrong",
        replace(PLAIN, swapped=True),
    ),
    Mutant("one square for two", STORE, "                turn ^= 1;\n", "", "race", STAGED),
    Mutant(
        "a square overwritten while it is read",
        STORE,
        "if (lane == 0) cp_async_bulk_wait_group_read<1>();  // by the copy before the last one, which was from here\n",
        "",
        "race",
        STAGED,
    ),
    Mutant(
        "shared memory left before results have been read",
        STORE,
        "if (STAGED && threadIdx.x % 32 == 0) cp_async_bulk_wait_group<0>();",
        "",
        "exit|bulk|race|complete",
        STAGED,
    ),
)
assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
SOUND = [mutant for mutant in MUTANTS if not mutant.finding]
BROKEN = [mutant for mutant in MUTANTS if mutant.finding]


def outcome(mutant: Mutant, seed: int) -> str:
    """What is said about one run: the finding, `WRONG`, or nothing."""
    made, outputs = poison_outputs(
        inputs.make(mutant.problem, "integers" if mutant.data == "padding" else mutant.data, seed)
    )
    operands = made
    if mutant.data == "padding":
        operands = Operands(tuple(map(padded, made.a)), tuple(map(padded, made.b)), made.out)
    scratch = sm100_plans.scratch(mutant.plan, mutant.problem, operands)
    for tensor in scratch:
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)  # else what is read too early may be what a run before left there: the right sums
    launches = sm100_plans.build(mutant.plan, mutant.problem, operands, scratch)
    try:
        emulated.emulate(marked(launches, MUTANTS.index(mutant)), seed=seed, checks=STRICT)
    except LaunchError as error:
        return str(error)
    return "" if judge(mutant.problem, made, outputs).ok else WRONG


def padded(x: NVFP4Tensor | torch.Tensor) -> NVFP4Tensor | torch.Tensor:
    """NaN in the padding along K of tiled scales."""
    if not isinstance(x, NVFP4Tensor):
        return x
    scales = x.scales.view(torch.uint8).clone()
    blocks = x.codes.shape[-1] // 8
    scales[..., -1, :, :, blocks % 4 :] = 0x7F
    return NVFP4Tensor(x.codes, scales.view(torch.float8_e4m3fn), scale_layout="tiled")


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Mutant:
    """The mutant of the test, in the sources that are compiled from now on."""
    mutant: Mutant = request.param
    make(mutant, monkeypatch)
    return mutant


@pytest.mark.sampled(2)
@pytest.mark.parametrize("changed", BROKEN, ids=lambda mutant: mutant.name, indirect=True)
def test_mutants_are_caught(changed: Mutant) -> None:
    found = outcome(changed, 0)
    assert re.search(changed.finding, found, re.IGNORECASE), f"{changed.name}: {found[:2000] or 'nothing was found'}"


@pytest.mark.slow
@pytest.mark.parametrize("changed", BROKEN, ids=lambda mutant: mutant.name, indirect=True)
def test_mutants_are_caught_whatever_the_interleaving(changed: Mutant) -> None:
    for seed in range(1, 5):
        assert outcome(changed, seed), (changed.name, seed)


@pytest.mark.parametrize("changed", SOUND, ids=lambda mutant: mutant.name, indirect=True)
def test_changes_that_change_nothing_are_not_blamed(changed: Mutant) -> None:
    """As a check of the harness: a mutant that is sound is clean."""
    assert outcome(changed, 0) == ""


@pytest.mark.parametrize(
    ("plan", "problem"), sorted({(m.plan, m.problem) for m in MUTANTS}, key=str), ids=lambda value: str(value)[:40]
)
def test_the_kernels_themselves_are_clean(plan: ProductPlan | DecodePlan, problem: Problem) -> None:
    for seed in range(3):
        verdict = sm100_plans.run(plan, problem, "uniform", seed, STRICT)
        assert verdict.ok, str(verdict)
