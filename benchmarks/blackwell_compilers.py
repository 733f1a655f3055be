"""Our Blackwell GEMM beside Triton's, both in the emulator: the same product, and what each of them executes for it.

    python benchmarks/blackwell_compilers.py            # run, and write the table of docs/blackwell.md

Triton compiles ``tl.dot_scaled`` on NVFP4 operands for sm_100 (tests/emulator/triton_programs.py) without a GPU. Both
read the same tensors with tiled scales. On data whose sums are exact all results must be the same bits; on other data
they must be within the bound of the checker. Counters are the emulator's: how much is done, not how fast.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "emulator"))

import triton_programs as tp  # noqa: E402

from nvfp4.backends.sm100 import build, planner, scratch  # noqa: E402
from nvfp4.backends.sm100.constants import Cluster, Schedule  # noqa: E402
from nvfp4.backends.sm100.plans import ProductPlan  # noqa: E402
from nvfp4.check import inputs  # noqa: E402
from nvfp4.check.run import poison_outputs  # noqa: E402
from nvfp4.check.verdict import judge  # noqa: E402
from nvfp4.device import known  # noqa: E402
from nvfp4.emulator import Report  # noqa: E402
from nvfp4.executors import emulated  # noqa: E402
from nvfp4.problem import Format, Op, Problem  # noqa: E402

DOCUMENT = ROOT / "docs" / "blackwell.md"
_MARKER = re.compile(r"(<!-- compilers -->\n).*?(<!-- /compilers -->)", re.DOTALL)
TILED = Format("nvfp4", "tiled")
PROBLEM = Problem(Op.GEMM, 256, 1024, 4096, 1, TILED, TILED, "fp32")
DATA = ("integers", "uniform", "gaussian")
SEED = 1
# The reshapes and transpositions of Triton's scales want two steps of 64 in a block of K.
BM, BN, BK = 128, 128, 256

PLAIN = ProductPlan("sm_100a", tile_n=BN, stages=3, buffers=1, signed=False, schedule=Schedule.SINGLE)
OURS = {
    "ours, Triton's tile": PLAIN,
    "ours, staged results": replace(PLAIN, staged=True),
    "ours, any sign of scales": replace(PLAIN, signed=True),
    "ours, pairs of blocks": replace(PLAIN, cluster=Cluster.PAIR, tile_n=256, sets=2, share_scales=True),
    "ours, pairs with 64 rows": replace(PLAIN, cluster=Cluster.HALVES, tile_n=256, buffers=2, share_scales=True),
    "ours, as planned": planner.plan(known("sm_100a"), PROBLEM),
}


@dataclass(frozen=True)
class Result:
    """One kernel on one kind of data: C, the judgement, and the emulator's report."""

    out: torch.Tensor
    verdict: str
    report: Report


def ours(plan: ProductPlan, data: str) -> Result:
    """Our kernel under `plan`."""
    operands, outputs = poison_outputs(inputs.make(PROBLEM, data, SEED))
    (report,) = emulated.emulate(build(plan, PROBLEM, operands, scratch(plan, PROBLEM, operands)), seed=SEED)
    verdict = judge(PROBLEM, operands, outputs)
    assert verdict.ok, str(verdict)
    return Result(operands.out[0].clone(), verdict.summary, report)


def tritons(data: str, *, specialize: bool) -> Result:
    """Triton's kernel on the same operands; optionally with its warp specialisation."""
    operands, outputs = poison_outputs(inputs.make(PROBLEM, data, SEED))
    (a,), (b,) = operands.a, operands.b

    def scales(x: Any) -> Any:
        # [rows / 128, k / 64, 32, 4, 4] as the descriptor of the Triton kernel has it.
        tiles = x.scales.view(torch.uint8).numpy()
        return np.ascontiguousarray(tiles).reshape(1, tiles.shape[0], tiles.shape[1], 2, 256)

    args = {
        "a": tp.Descriptor(a.codes.numpy(), "u8", (BM, BK // 2)),  # type: ignore[union-attr]
        "sa": tp.Descriptor(scales(a), "fp8e4nv", (1, BM // 128, BK // 64, 2, 256)),
        "b": tp.Descriptor(b.codes.numpy(), "u8", (BN, BK // 2)),  # type: ignore[union-attr]
        "sb": tp.Descriptor(scales(b), "fp8e4nv", (1, BN // 128, BK // 64, 2, 256)),
        "c": tp.Descriptor(operands.out[0].numpy(), "fp32", (BM, BN)),
        "K": PROBLEM.k,
    }
    constants = {"BM": BM, "BN": BN, "BK": BK, "SPECIALIZE": specialize}
    compiled = tp.compile_kernel(tp.nvfp4_gemm_tma, args, constants, 100, num_warps=4, num_stages=3)
    report = tp.run(compiled, args, (PROBLEM.m // BM, PROBLEM.n // BN, 1), seed=SEED)
    verdict = judge(PROBLEM, operands, outputs)
    assert verdict.ok, str(verdict)
    return Result(operands.out[0].clone(), verdict.summary, report)


def _row(name: str, tile: tuple[int, int], results: dict[str, Result], first: dict[str, Result]) -> str:
    report = results[DATA[0]].report
    counts = report.counts
    products = counts["mma_flops"] // (2 * tile[0] * tile[1] * 64)
    same = []
    for data in DATA[1:]:
        differ = int((results[data].out.view(torch.int32) != first[data].out.view(torch.int32)).sum())
        same.append("the same bits" if not differ else f"{differ} of {PROBLEM.m * PROBLEM.n} differ")
    cells = [
        name,
        f"{tile[0]}x{tile[1]}",
        f"{report.steps:,}",
        f"{products:,}",
        f"{report.instructions.get('tcgen05', 0):,}",
        f"{counts.get('async_copy_bytes', 0) / 2**20:.1f}",
        f"{counts.get('global_store_bytes', 0) / 2**20:.1f}",
        f"{counts.get('shared_wavefronts', 0):,}",
        f"{counts.get('mbarrier_waits', 0):,}",
        results[DATA[0]].verdict,
        ", ".join(sorted(set(same))),
    ]
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """Run everything; Markdown."""
    lines = [
        f"{PROBLEM.m} x {PROBLEM.n} x {PROBLEM.k}, fp32 results; Triton {tp.triton.__version__}. All checks on.",
        "",
        "| kernel | instruction's M x N | warp instructions | products | tcgen05 | copied, MB | stored by threads, MB "
        "| shared wavefronts | barrier waits | exact sums | other data: beside the first line |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    first: dict[str, Result] = {}
    for name, specialize in (("Triton", False), ("Triton, warp specialised", True)):
        results = {data: tritons(data, specialize=specialize) for data in DATA}
        first = first or results
        lines.append(_row(name, (BM, BN), results, first))
    for name, plan in OURS.items():
        assert plan.wrong(known("sm_100a").shared_bytes) == (), name
        results = {data: ours(plan, data) for data in DATA}
        assert torch.equal(results["integers"].out, first["integers"].out), name
        lines.append(_row(name, (plan.tile_m, plan.tile_n), results, first))
    lines.append("")
    lines.append(f"As planned: {OURS['ours, as planned'].describe()}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table."""
    made = table()
    print(made)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(_MARKER.sub(lambda m: m.group(1) + made + m.group(2), text), encoding="utf-8")


if __name__ == "__main__":
    main()
