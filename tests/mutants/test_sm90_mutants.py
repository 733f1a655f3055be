"""Hopper kernels with one line changed: the emulator, or the checker behind it, must say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from mutants.changing import STRICT, WRONG, Change, make, marked
from nvfp4.backends.base import Operands
from nvfp4.backends.sm90 import decode_gemm, gemm, group_gemm
from nvfp4.backends.sm90.launching import needs
from nvfp4.backends.sm90.plan import GemmPlan, staged_plan
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.errors import LaunchError
from nvfp4.executors import emulated
from nvfp4.executors.launch import Launch
from nvfp4.executors.scratch import Scratch
from nvfp4.problem import Format, Op, Problem

KEPT = "counters"  # or sums are not as they were found
COUPLES, ROLES, STAGES = "pipeline/sm90_couples.cuh", "pipeline/sm90_roles.cuh", "pipeline/sm90_stages.cuh"
HELPERS, LISTED = "pipeline/sm90_helpers.cuh", "pipeline/listed_tiles.cuh"
ARRIVING = "pipeline/arriving_sums.cuh"
ACTIVATIONS = "pipeline/sm90_activations.cuh"

DECODE, DECODE_STAGES = "pipeline/sm90_decode.cuh", "pipeline/sm90_decode_stages.cuh"
HALVES = "pipeline/sm90_decode_halves.cuh"


@dataclass(frozen=True)
class Case:
    """A product, its launches, and the memory that they need."""

    problem: Problem
    launches: Callable[[Operands, Sequence[torch.Tensor]], tuple[Launch, ...]]
    needs: Callable[[Operands], Scratch]


def coupled(problem: Problem, tokens: int, grid: int = 4, own: int = 0) -> Case:
    plan = staged_plan(problem, GemmPlan("sm_90a", tokens, 1, 2, 8, grid, begins=True, coupled=True, own=own))
    return Case(problem, partial(gemm.launches, plan, problem), partial(needs, plan, problem))


def helped_blocks(problem: Problem, tokens: int) -> Case:
    plan = GemmPlan("sm_90a", tokens, 2, 2, 8, 3, own=4)
    return Case(problem, partial(gemm.launches, plan, problem), partial(needs, plan, problem))


def decoded(problem: Problem, clusters: int, halved: bool = False) -> Case:
    plan = decode_gemm.DecodePlan("sm_90a", 48, 2, False, 5, 2, 2 * clusters, halved=halved)
    return Case(problem, partial(decode_gemm.launches, plan, problem), lambda operands: decode_gemm.needs(plan))


def listed(sizes: tuple[tuple[int, int, int], ...]) -> Case:
    m, n, k = sum(size[0] for size in sizes), max(size[1] for size in sizes), max(size[2] for size in sizes)
    problem = Problem(Op.GROUP_GEMM, m, n, k, a=NVFP4, b=NVFP4, groups=sizes)
    plan = staged_plan(problem, GemmPlan("sm_90a", 64, 1, 2, 8, 2, begins=True, narrowest=32))
    return Case(problem, partial(group_gemm.launches, plan, problem), partial(needs, plan, problem))


NVFP4, BF16 = Format("nvfp4", "linear"), Format("bf16", "")
CASES = {
    # Two tiles of five chunks, for two couples; sums that are handed over take both of the places where there is room.
    "couples": coupled(Problem(Op.GEMM, 100, 130, 1280, a=NVFP4, b=NVFP4), 112),
    # One tile of eight chunks, which two couples share through device memory.
    "shared": coupled(Problem(Op.GEMM, 60, 128, 2048, a=BF16, b=NVFP4, out_dtype="fp32"), 64),
    # Three tiles of six chunks, the last two of which two helpers multiply for three couples.
    "helped": coupled(Problem(Op.GEMM, 100, 300, 1536, a=NVFP4, b=NVFP4), 112, 8, 2),
    # Two tiles of six chunks, the last two of which a helper multiplies for two blocks, with two blocks of weights.
    "doubled": helped_blocks(Problem(Op.GEMM, 40, 500, 1536, a=NVFP4, b=NVFP4), 48),
    # Three tiles of sixteen chunks for two blocks: one has a part of the other's first.
    "cut": listed(((30, 128, 4096), (50, 128, 4096), (20, 128, 4096))),
    # Two pairs of tiles of five chunks, which three pairs of blocks share.
    "lying": decoded(Problem(Op.GEMM, 40, 300, 1280, a=BF16, b=NVFP4, out_dtype="fp32"), 3),
    # Two pairs of tiles of four chunks, each of which two pairs of blocks share.
    "halved": decoded(Problem(Op.GEMM, 40, 300, 1024, a=BF16, b=NVFP4, out_dtype="fp32"), 4, True),
}


@dataclass(frozen=True)
class Mutant(Change):
    """Of one of `CASES`."""

    case: str = "couples"


WAIT = "if (i % S::STAGED == 0) wait_barrier_cluster(stages.{}, 0);"
MUTANTS = (
    Mutant("nothing", COUPLES, "rank ^ 1, thread", "rank ^ 1u, thread", "^$"),
    Mutant("no wait for sums", COUPLES, WAIT.format("sums_full(hand, group)"), "", "race|uninit"),
    Mutant("no wait for room", COUPLES, WAIT.format("sums_room(hand)"), "", "race"),
    Mutant("room before all tiles are read", STAGES, "hand == 0 ? 1 : 4 * S::MULTIPLIERS", "1", "race|mbarrier"),
    Mutant("fewer bytes expected", STAGES, "count * 128 * 16);", "count * 128 * 16 - 16);", "race|mbarrier|deadlock"),
    Mutant("more bytes expected", STAGES, "count * 128 * 16);", "count * 128 * 16 + 16);", "deadlock"),
    Mutant("the same half kept", COUPLES, "= rank == 0 ? low[e] : high[e];", "= low[e];", WRONG),
    Mutant("the same half handed over", COUPLES, "= rank == 0 ? high[e] : low[e];", "= high[e];", WRONG),
    Mutant(
        "the same chunks",
        COUPLES,
        "static_cast<int>(COUPLE) * chunk + static_cast<int>(cluster_ctarank())",
        "static_cast<int>(COUPLE) * chunk",
        WRONG,
    ),
    Mutant(
        "weights over codes of activations",
        ROLES,
        "waits ? place.parity() : place.parity() ^ 1",
        "place.parity() ^ 1",
        "race|deadlock",
    ),
    Mutant(
        "nobody says that codes of activations are read",
        ROLES,
        "if (elect_sync()) mbarrier_arrive_shared_b64(stages.chunk_empty(S::CHUNKS - 1));",
        "",
        "deadlock|race",
    ),
    Mutant("the same chunk begun twice", ROLES, "stage * S::RAW_SCALES_BYTES, unit),", "0, unit),", WRONG),
    Mutant(
        "the same part of a tile for all couples",
        COUPLES,
        "position = index * deal.each;",
        "position = 0;",
        WRONG,
        "shared",
    ),
    Mutant(
        "one block has met less",
        ROLES,
        "    if constexpr (S::TOGETHER) __syncthreads();\n",
        "",
        "race",
        "helped",
    ),
    Mutant(
        "words of two blocks mixed up", ACTIVATIONS, "exchange(odd ? own.x : own.y)", "exchange(own.y)", WRONG, "helped"
    ),
    Mutant(
        "sums that have not arrived",
        ARRIVING,
        "} while (__any_sync(0xFFFFFFFFu, missing));",
        "} while (false);",
        WRONG,
        "shared",
    ),
    Mutant(
        "sums left where they were",
        ARRIVING,
        "st_relaxed_gpu_global_v4_b32(at[i] + part * 128, {0, 0, 0, 0});",
        "",
        KEPT,
        "shared",
    ),
    Mutant(
        "shared sums of the same half", COUPLES, "sums[b] + 4 * (half * GROUPS + g)", "sums[b] + 4 * g", WRONG, "shared"
    ),
    Mutant(
        "one block's sums of another couple",
        COUPLES,
        "couple, sender % 2, group, rank",
        "couple, 0, group, rank",
        "wrong|spin|race",
        "shared",
    ),
    Mutant(
        "as many bytes as couples expect that are alone",
        COUPLES,
        "S::BLOCKS * share.count();",
        "min(S::HANDED, S::STAGED);",
        "deadlock",
        "shared",
    ),
    Mutant(
        "sums before they are left",
        HELPERS,
        "wait_barrier(stages.left(), turn % 2);",
        "",
        "race|uninit|deadlock",
        "helped",
    ),
    Mutant(
        "no wait for a helper",
        HELPERS,
        "tile;\n    while (ld_acquire_gpu_global_b32(counter) == 0) {",
        "tile;\n    while (false) {",
        "race|uninit|wrong",
        "helped",
    ),
    Mutant("its sums not fenced", HELPERS, "fence_proxy_async_global();", "", "missing-proxy-fence", "helped"),
    Mutant("activations not fenced", ACTIVATIONS, "fence_proxy_async_global();", "", "missing-proxy-fence", "helped"),
    Mutant(
        "activations before all blocks have made them",
        ACTIVATIONS,
        "while (ld_acquire_gpu_global_b32(arrived) < blocks) {",
        "while (false) {",
        "race",
        "helped",
    ),
    Mutant(
        "its sums over tiles that are read",
        HELPERS,
        "wait_barrier(stages.tile_empty(to), place.tile_parity() ^ 1);",
        "",
        "race",
        "helped",
    ),
    Mutant(
        "its sums read too soon",
        HELPERS,
        "wait_barrier(stages.tile_full(first + i), place.tile_parity());",
        "",
        "race|uninit",
        "helped",
    ),
    Mutant(
        "sums of both blocks in the same place",
        HELPERS,
        "for (u32 b = 0; b < S::BLOCKS; ++b, ++place.count) {",
        "for (u32 b = 0; b < S::BLOCKS; ++b) {",
        "race|wrong|deadlock|mbarrier",
        "doubled",
    ),
    Mutant(
        "those of the second block over tiles that are read",
        HELPERS,
        "wait_barrier(stages.tile_empty(to), place.tile_parity() ^ 1);",
        "if (b == 0) wait_barrier(stages.tile_empty(to), place.tile_parity() ^ 1);",
        "race",
        "doubled",
    ),
    Mutant("one block's sums left", HELPERS, "b * WORKSPACE_GROUPS * FOURS + i", "i", "race|wrong|uninit", "doubled"),
    Mutant("counter of two blocks kept", HELPERS, "st_relaxed_gpu_global_b32(counter, 0);", "", KEPT, "doubled"),
    Mutant("the same half of its sums", HELPERS, "sums += cluster_ctarank() * FOURS;", "", WRONG, "helped"),
    Mutant("handed over into its sums", HELPERS, "multiplier.place.first_tile() ^ CHUNK", "0", "race|wrong", "helped"),
    Mutant(
        "a helper's chunks as an owner's",
        HELPERS,
        "begin = helps ? deal.own * TEAM : 0;",
        "begin = 0;",
        WRONG,
        "helped",
    ),
    Mutant(
        "counter of a helper kept",
        HELPERS,
        "leave_counter(counter, 1, COUPLE);",
        "",
        KEPT,
        "helped",
    ),
    Mutant(
        "no wait for the other block's barriers",
        ROLES,
        "if constexpr (S::COUPLED) barrier_cluster_wait_acquire();",
        "",
        "race|uninit|mbarrier|barrier",
    ),
    Mutant("counter of shares kept", ROLES, "if constexpr (S::TOGETHER) share.depart();", "", KEPT),
    Mutant(
        "nothing, as they lie", DECODE, "const u32 now = tile.index,", "const u32 now = tile.index + 0,", "^$", "lying"
    ),
    Mutant(
        "wide scales not waited for",
        DECODE,
        "wait_barrier(stages.wide_full(raw.index), raw.parity);",
        "",
        "race|uninit",
        "lying",
    ),
    Mutant(
        "codes given back too soon",
        DECODE,
        "if (unit + 2 == CHUNK) {",
        "if (unit + 3 == CHUNK) {",
        "race|wrong",
        "lying",
    ),
    Mutant("tiles not given back", DECODE, "if (unit > 0 || !first) release(before);", "", "deadlock", "lying"),
    Mutant(
        "tiles given back too soon",
        DECODE,
        "wgmma_wait_group_sync_aligned<1>();  // the unit before",
        "wgmma_wait_group_sync_aligned<2>();  //",
        "race|wgmma",
        "lying",
    ),
    Mutant(
        "the neighbour's warps not counted",
        DECODE_STAGES,
        "S::MULTIPLY_WARPS * S::SHARE",
        "S::MULTIPLY_WARPS",
        "race|mbarrier",
        "lying",
    ),
    Mutant("no turn given", DECODE, "if (goes_first()) barrier_arrive(TURN, S::MULTIPLIERS);", "", "deadlock", "lying"),
    Mutant("a turn without giving tiles back", DECODE, "if (!first) release(before);", "", "deadlock", "lying"),
    Mutant(
        "no wait for the other half",
        HALVES,
        "while (ld_acquire_gpu_global_b32(counter) == 0) {",
        "while (false) {",
        "race|uninit|wrong",
        "halved",
    ),
    Mutant("the other half not fenced", HALVES, "fence_proxy_async_global();", "", "missing-proxy-fence", "halved"),
    Mutant("counter of a half kept", HALVES, "st_relaxed_gpu_global_b32(counter, 0);", "", KEPT, "halved"),
    Mutant(
        "a half before it has left",
        HALVES,
        "wait_barrier(stages.left(), 0);\n    red",
        "red",
        "race|uninit",
        "halved",
    ),
    Mutant(
        "a half before it has come",
        HALVES,
        "wait_barrier(stages.part_full(number), 0);",
        "",
        "race|uninit",
        "halved",
    ),
    Mutant(
        "a half over tiles that are read",
        DECODE_STAGES,
        "for (u32 i = 0; i < S::TILES; ++i, tile.advance()) wait_barrier(stages.tile_empty",
        "for (u32 i = 0; i < 0; ++i, tile.advance()) wait_barrier(stages.tile_empty",
        "race",
        "halved",
    ),
    Mutant(
        "sums handed over onto tiles that are read",
        HALVES,
        "wait_barrier(stages.left(), 0);  // nor",
        "// nor",
        "race",
        "halved",
    ),
    Mutant("handed sums read too soon", HALVES, "barrier_sync(HANDED, THREADS);", "", "race|uninit|deadlock", "halved"),
    Mutant("the same half of the tokens", HALVES, "half * (S::TILE_BYTES / 16)", "0", WRONG, "halved"),
    Mutant("both finish the same rows", HALVES, "half, half_of_block<S>());", "half, group);", "race|wrong", "halved"),
    Mutant(
        "activations of the first group for all",
        "kernels/sm90_group_gemm.cu",
        "return table.activations[g];",
        "return table.activations[0];",
        "wrong|race|bounds",
        "cut",
    ),
    Mutant("nothing, cut", LISTED, "int entry, end;", "int entry, end ;", "^$", "cut"),
    Mutant(
        "no wait for a cut tile's end",
        HELPERS,
        "        while (ld_acquire_gpu_global_b32(counter) == 0) {",
        "        while (false) {",
        "race|uninit|wrong",
        "cut",
    ),
    Mutant(
        "a cut tile stored without its end",
        ROLES,
        "fetch_help<N, S>(workspace, place_of_entry(noted.word), group, sums[0]);",
        "",
        "wrong|counters",
        "cut",
    ),
    Mutant(
        "the end of a cut tile stored",
        ROLES,
        "if (part.begin > 0) {",
        "if (false) {",
        "wrong|deadlock|race|spin",
        "cut",
    ),
    Mutant(
        "counter of a cut tile kept",
        HELPERS,
        "leave_counter(counter, 1, S::MULTIPLIERS)",
        "leave_counter(counter, 1, 7)",
        KEPT,
        "cut",
    ),
    Mutant(
        "a note of another tile",
        ROLES,
        "const TileNote& noted = note(turn);",
        "const TileNote& noted = note(0);",
        "wrong|race|livelock",
        "cut",
    ),
    Mutant("another lane's bytes", "decode/memory_order.cuh", "% 4 * 0x11 + 0x40", "% 2 * 0x11 + 0x40", WRONG, "lying"),
)


@pytest.mark.sampled(2)  # among which is every kind of finding that is the only one of a mutant
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mutant, monkeypatch)
    case = CASES[mutant.case]
    made, outputs = poison_outputs(inputs.make(case.problem, "uniform", 0))
    scratch = case.needs(made)
    extra = scratch.allocate(torch.device("cpu"))
    launches = marked(case.launches(made, extra), MUTANTS.index(mutant))
    try:
        emulated.emulate(launches, seed=0, checks=STRICT)
        found = "" if judge(case.problem, made, outputs).ok else WRONG
        zeros = [kept for piece, kept in zip(scratch.pieces, extra, strict=True) if piece.zeroed]
        found = found or (KEPT if any(kept.any() for kept in zeros) else "")
    except LaunchError as error:
        found = str(error)
    assert re.search(mutant.finding, found, re.IGNORECASE), f"{mutant.name}: {found[:2000] or 'nothing was found'}"
