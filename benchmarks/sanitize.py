"""Run every sm80 and sm90 kernel under NVIDIA's compute-sanitizer, and print a table: needs a GPU and the toolkit.

    python benchmarks/sanitize.py                                # all tools, all kernels
    python benchmarks/sanitize.py --tool memcheck racecheck --backend sm90 --case gemm

Each tool gets a process that runs small cases through the package, one after another, and checks their answers; where
a report ends the process, another one goes on behind the case. The tools run side by side. torch's pool of memory is
off, so that a read beyond a tensor is one beyond an allocation. Only kernels with "nvfp4" in their names are checked,
except by initcheck, which must see what torch's kernels write. Two cases with a planted fault, which memcheck and
initcheck have to report, show that the tools see our kernels. Exit code 1 when a tool reports an error or misses a
planted one, an answer is wrong, or a case did not run.

What racecheck reports of kernels with rings of bulk copies (seen with CUDA 13.0 on an H200), and how to read it:

- It orders accesses by the threads that arrive at an mbarrier and wait for it. Where one lane arrives for its warp
  without a ``__syncwarp()`` before, the reads of the other 31 lanes count as not ordered: hazards in multiples of 31.
- It does not seem to follow ``cp.async.mbarrier.arrive``: hazards between such a ``cp.async`` and reads behind the
  barrier come in other numbers; the emulator, which models it, has none. Tensor copies are not looked at.

``--log`` keeps all reports. The emulator's race check (docs/emulator.md) models all of these barriers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from nvfp4 import backends
from nvfp4.backends.base import Plan
from nvfp4.check import inputs
from nvfp4.check.poison import Poisoned
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.device import Capability, capability, known
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PROVEN = ("memcheck", "initcheck")
PLANTED = "planted"
BACKENDS = ("sm80", "sm90")
SMS = {"sm80": (0,), "sm90": (0, 2)}
"""What plans of a backend are made for: the device as it is, and one of two multiprocessors."""

LINEAR, TILED = Format("nvfp4", "linear"), Format("nvfp4", "tiled")
SCALED = Format("nvfp4", "tiled", True)
FP16, BF16 = Format("fp16", ""), Format("bf16", "")

PROBLEMS: tuple[Problem, ...] = (
    # Ragged M, N and K (a multiple of 64, which all kernels take), every kind of activations, layouts, results.
    Problem(Op.GEMV, 330, 1, 2112, 2, LINEAR, LINEAR, "fp16"),
    Problem(Op.GEMV, 257, 4, 2112, 1, SCALED, SCALED, "fp32"),
    Problem(Op.GEMV, 200, 1, 1024, 1, TILED, FP16, "fp16"),
    Problem(Op.GEMV, 190, 16, 576, 1, LINEAR, BF16, "bf16"),
    Problem(Op.GEMM, 40, 200, 832, 1, LINEAR, LINEAR, "fp16"),
    Problem(Op.GEMM, 130, 260, 1088, 2, SCALED, SCALED, "fp32"),
    Problem(Op.GEMM, 5, 300, 576, 1, BF16, LINEAR, "bf16"),
    Problem(Op.GEMM, 200, 129, 320, 1, FP16, TILED, "fp16"),
    Problem(Op.GEMM, 500, 390, 1024, 2, BF16, LINEAR, "bf16"),
    Problem(Op.GEMM, 60, 260, 832, 1, FP16, SCALED, "fp32"),
    Problem(Op.DUAL_GEMM, 70, 200, 576, 1, TILED, TILED, "fp16"),
    Problem(Op.DUAL_GEMM, 20, 130, 832, 1, BF16, LINEAR, "bf16"),
    Problem(Op.DUAL_GEMM, 90, 130, 1024, 1, BF16, LINEAR, "bf16"),
    Problem(Op.DUAL_GEMM, 150, 200, 832, 1, LINEAR, LINEAR, "fp16"),
    Problem(
        Op.GROUP_GEMM, 230, 264, 576, 1, LINEAR, LINEAR, "fp16", groups=((70, 264, 576), (1, 8, 320), (159, 130, 576))
    ),
    Problem(Op.GROUP_DUAL_GEMM, 230, 136, 576, 1, LINEAR, LINEAR, "bf16", groups=((70, 136, 576), (160, 130, 576))),
    Problem(Op.GROUP_GEMM, 88, 200, 576, 1, TILED, TILED, "fp16", groups=((3, 130, 576), (20, 200, 320), (65, 64, 64))),
    Problem(Op.GROUP_GEMM, 90, 200, 576, 1, BF16, LINEAR, "bf16", stacked=7),
    Problem(Op.GROUP_GEMM, 90, 136, 320, 1, SCALED, SCALED, "fp32", stacked=40),
    Problem(Op.GROUP_DUAL_GEMM, 88, 130, 576, 1, TILED, TILED, "fp16", groups=((20, 130, 576), (68, 64, 64))),
    Problem(Op.GROUP_DUAL_GEMM, 90, 136, 320, 1, BF16, LINEAR, "bf16", stacked=7),
    Problem(Op.GROUP_GEMM, 90, 136, 320, 1, SCALED, LINEAR, "fp16", stacked=7, tokens=20),
    Problem(Op.GROUP_DUAL_GEMM, 90, 136, 320, 1, BF16, LINEAR, "fp32", stacked=7, tokens=20),
)

SHARED: tuple[tuple[Problem, int], ...] = (
    # For Hopper, and plans for so many multiprocessors: couples and blocks with helpers, lists with cut tiles, helpers
    # for two blocks of weights, whole tiles and then halves, couples that share a tile, helpers with little of many.
    (Problem(Op.GEMM, 60, 640, 8192, 1, LINEAR, LINEAR, "fp16"), 16),
    (Problem(Op.GEMM, 60, 390, 2624, 1, LINEAR, LINEAR, "fp16"), 7),
    (Problem(Op.DUAL_GEMM, 60, 195, 2560, 1, BF16, LINEAR, "bf16"), 7),
    (
        Problem(Op.GROUP_GEMM, 100, 136, 1536, 1, LINEAR, LINEAR, groups=tuple([(m, 136, 1536) for m in (30, 50, 20)])),
        12,
    ),
    (Problem(Op.GEMM, 60, 760, 2048, 1, LINEAR, LINEAR, "bf16"), 5),
    (Problem(Op.GEMM, 200, 760, 2048, 1, BF16, LINEAR, "bf16"), 4),
    (Problem(Op.GEMM, 60, 256, 4096, 1, LINEAR, LINEAR, "fp16"), 8),
    (Problem(Op.GEMM, 40, 250, 4096, 1, BF16, LINEAR, "fp32"), 8),
    (Problem(Op.GEMM, 60, 1272, 4096, 1, LINEAR, LINEAR, "bf16"), 6),
)


@dataclass(frozen=True)
class Case:
    """One problem on one backend.

    Attributes:
        backend: Its name.
        problem: What is computed.
        sms: Plan as for a device of so many multiprocessors, so that blocks go around their loops more often, share
            more tiles, and plans for large problems are taken; 0 for the device as it is.
    """

    backend: str
    problem: Problem
    sms: int = 0

    def __str__(self) -> str:
        return f"{self.backend} {self.problem}" + (f", planned for {self.sms} SMs" if self.sms else "")

    @property
    def name(self) -> str:
        """A name without spaces, for the markers in the child's output."""
        return str(self).replace(" ", "_")

    def plan(self, what: Capability) -> Plan:
        """The plan on a device."""
        return backends.get(self.backend).plan(replace(what, sms=self.sms or what.sms), self.problem)


@dataclass
class Result:
    """What one tool found in one case.

    Attributes:
        errors: Reports of the tool while the case ran.
        answer: The judgement on the result.
        reports: First lines of the reports.
    """

    errors: int
    answer: str
    reports: tuple[str, ...]


def cases(names: Iterable[str], ops: Iterable[str], what: Capability) -> list[Case]:
    """The cases that the backends take on a device."""
    planned = {name: [(problem, sms) for sms in SMS[name] for problem in PROBLEMS] for name in names}
    if "sm90" in planned:
        planned["sm90"] += SHARED
    found = [Case(name, problem, sms) for name in planned for problem, sms in planned[name]]
    taken = [case for case in found if not backends.get(case.backend).refuse(what, case.problem)]
    return [case for case in taken if not ops or any(op in (case.problem.op.value, case.name) for op in ops)]


def child(skip: int, names: list[str], ops: list[str]) -> None:
    """Run the cases from number `skip` on, with a marker before and a verdict behind each."""
    import torch

    what = capability("cuda")
    for case in cases(names, ops, what)[skip:]:
        print(f"@@case {case.name}", flush=True)
        backend = backends.get(case.backend)
        operands, outputs = poison_outputs(inputs.make(case.problem, "gaussian", 0, "cuda"))
        backend.run(case.plan(what), case.problem, operands)
        torch.cuda.synchronize()
        time.sleep(0.1)  # the tool's reports come through another process; they belong before our next line
        # Judged on the CPU: fewer kernels of torch under the tool.
        here = [Poisoned(output.tensor.cpu(), output.storage.cpu()) for output in outputs]
        damage = [text for output in here if (text := output.guard_damage())]
        verdict = judge(case.problem, inputs.to_device(operands, "cpu"), None, explain=False)
        print(f"@@done {'; '.join(damage) or verdict.summary}", flush=True)


def planted(tool: str) -> None:
    """Run a fault that the tool has to report: a result that is too short, or codes that nobody wrote."""
    import torch

    backend, what, problem = backends.get("sm80"), capability("cuda"), Problem(Op.GEMM, 64, 64, 128, out_dtype="fp32")
    made = inputs.make(problem, "integers", 0, "cuda")
    if tool == "memcheck":
        made = replace(made, out=(torch.empty(16, 64, device="cuda"),))
    else:
        weights = made.b[0]
        assert isinstance(weights, NVFP4Tensor)
        made = replace(made, b=(NVFP4Tensor(torch.empty_like(weights.codes), weights.scales, validate=False),))
    print(f"@@case {PLANTED}", flush=True)
    backend.run(backend.plan(what, problem), problem, made)
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize()
    time.sleep(0.1)
    print("@@done ended", flush=True)


_ERROR = re.compile(r"^========= (?!\s|COMPUTE-SANITIZER|Saved|ERROR SUMMARY|RACECHECK SUMMARY|Target|$)(.*)")

_HAZARDS = re.compile(r"\[(\d+) hazards?\]")


def parse(text: str) -> Iterator[tuple[str, Result]]:
    """The cases of a child's output, in order, with what the tool reported between their markers."""
    for part in text.split("@@case ")[1:]:
        name, _, rest = part.partition("\n")
        body, marker, tail = rest.partition("@@done ")
        reports: list[str] = []
        hazards: list[int] = []
        for line in (*body.splitlines(), "========= end"):
            if found := _ERROR.match(line):
                if hazards:
                    lanes = ", in multiples of 31" if not any(count % 31 for count in hazards) else ""
                    reports[-1] += f" [{sum(hazards)} hazards{lanes}]"
                    hazards = []
                reports.append(found[1])
            elif found := _HAZARDS.search(line):
                hazards.append(int(found[1]))
        reports.pop()
        yield name.strip(), Result(len(reports) or int(not marker), tail.partition("\n")[0], tuple(reports))


def only_ours(program: str) -> list[str]:
    """The option that limits checks to our kernels, as the installed version calls it."""
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    name = next((name for name in ("--kernel-regex", "--kernel-name", "--filter") if name in text), None)
    return [] if name is None else [name, "kns=nvfp4"]


def sanitize(tool: str, count: int, options: argparse.Namespace) -> dict[str, Result]:
    """Run all cases under one tool; those that are missing in the result did not run in time."""
    end = time.monotonic() + options.timeout
    found: dict[str, Result] = {}
    while len(found) < count and time.monotonic() < end:
        text = under(tool, ["--child", str(len(found))], options, end)
        parsed = dict(parse(text))
        if not parsed and time.monotonic() < end:
            raise SystemExit(f"{tool}: nothing ran\n{text[-3000:]}")
        found |= parsed
    if tool in PROVEN:
        found |= dict(parse(under(tool, ["--planted", tool], options, end + 30)))
    return found


def under(tool: str, arguments: list[str], options: argparse.Namespace, end: float) -> str:
    """What this script prints with these arguments under a tool, until a moment of the monotonic clock."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise SystemExit("compute-sanitizer is not on the PATH: it comes with the CUDA toolkit")
    command = [program, "--tool", tool, *([] if tool == "initcheck" else only_ours(program)), "--print-limit", "10000"]
    command += [sys.executable, __file__, *arguments, "--backend", *options.backend]
    command += ["--case", *options.case] if options.case else []
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        text, _ = process.communicate(timeout=max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
    if options.log is not None:
        with (options.log / f"{tool}.txt").open("a") as file:
            file.write(text)
    return text


def _right(result: Result) -> bool:
    return bool(result.answer) and "wrong" not in result.answer and "overwritten" not in result.answer


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--backend", nargs="*", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--case", nargs="*", default=[], help="only these operations, or cases as `--list` names them")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for each tool")
    parser.add_argument("--log", type=Path, help="a folder for the tools' full output")
    parser.add_argument("--list", metavar="ARCH", help="print the cases that run on an architecture, and stop")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--planted", choices=PROVEN, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the tools and print the table."""
    options = arguments()
    if options.list:
        print("\n".join(case.name for case in cases(options.backend, options.case, known(options.list))))
        return
    if options.child is not None:
        child(options.child, options.backend, options.case)
        return
    if options.planted is not None:
        planted(options.planted)
        return
    if options.log is not None:
        options.log.mkdir(parents=True, exist_ok=True)
    wanted = cases(options.backend, options.case, capability("cuda"))
    if not wanted:
        sys.exit(f"sanitize: no case is called {' or '.join(options.case)}; --list sm_90a names them")
    with ThreadPoolExecutor(len(options.tool)) as pool:
        futures = {tool: pool.submit(sanitize, tool, len(wanted), options) for tool in options.tool}
        results = {tool: future.result() for tool, future in futures.items()}
    absent = Result(-1, "", ())
    print("| kernel of | " + " | ".join(results) + " | answer |")
    print("|" + " --- |" * (len(results) + 2))
    clean = True
    for case in wanted:
        each = [found.get(case.name, absent) for found in results.values()]
        clean &= all(not result.errors and _right(result) for result in each)
        counts = [
            "not run" if result is absent else str(result.errors) if result.errors else "clean" for result in each
        ]
        answer = next((result.answer for result in each if not _right(result)), each[0].answer)
        print(f"| {case} | " + " | ".join(counts) + f" | {answer or 'did not end'} |")
    for tool, found in results.items():
        if tool in PROVEN:
            seen = PLANTED in found and found[PLANTED].errors > 0
            clean &= seen
            print(
                f"{tool}: a planted fault {'is reported' if seen else 'IS MISSED: the tool does not see our kernels'}"
            )
        for name, result in found.items():
            for report in dict.fromkeys(result.reports if name != PLANTED else ()):
                print(f"{tool}: {name}: {report}")
    raise SystemExit(0 if clean else 1)


if __name__ == "__main__":
    main()
