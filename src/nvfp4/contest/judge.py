"""Judging what a submission returned, in a process that never ran it: inputs are drawn again from their seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nvfp4.backends.base import Operands
from nvfp4.check.verdict import Expected, expected, judge
from nvfp4.contest import hard, inputs
from nvfp4.contest.fingerprint import fingerprint
from nvfp4.contest.tasks import Case, Task
from nvfp4.problem import Op


@dataclass(frozen=True)
class Inputs:
    """Which inputs: sizes, kind of data (see `hard.NAMES`), seed."""

    case: Case
    data: str
    seed: int


def _outside(got: torch.Tensor, want: torch.Tensor, task: Task) -> torch.Tensor:
    """Mask of the elements outside the contest's own tolerance."""
    reference = want.float()
    distance = (got.float() - reference).abs()
    same = got == want  # infinities
    return ~((distance <= task.atol + task.rtol * reference.abs()) | same)


class Judge:
    """Judges results of one task.

    Args:
        task: The task.
        device: Where inputs are drawn: a device of the same kind as the submission's, so that seeds agree.
        strict: Whether `nvfp4.check` decides too, bit for bit where sums are exact; else only the contest's tolerance.
    """

    def __init__(self, task: Task, device: str, *, strict: bool = True) -> None:
        self.task, self.device, self.strict = task, device, strict
        self._known: dict[Inputs, tuple[Operands, tuple[Expected, ...]]] = {}

    def _expected(self, what: Inputs) -> tuple[Operands, tuple[Expected, ...]]:
        if what not in self._known:
            self._known.clear()  # inputs are large, and asked for one after another
            data = hard.make(self.task, what.case, what.data, what.seed, self.device)
            operands = inputs.operands(self.task, data)
            self._known[what] = operands, expected(self.task.problem(what.case), operands)
        return self._known[what]

    def shapes(self, case: Case) -> list[tuple[int, int, int]]:
        """Shapes [M, N, L] of the results."""
        return [(m, n, case.l if self.task.op is not Op.GROUP_GEMM else 1) for m, n, _ in case.groups]

    def read(self, case: Case, files: list[Path], digests: list[int]) -> list[torch.Tensor] | str:
        """The results in `files`, [M, N, L] fp16; or why they are not those that were announced."""
        results = []
        for path, shape, digest in zip(files, self.shapes(case), digests, strict=True):
            raw = path.read_bytes()
            path.unlink()
            if len(raw) != 2 * shape[0] * shape[1] * shape[2]:
                return f"a result of {len(raw)} bytes for shape {shape}"
            result = torch.frombuffer(bytearray(raw), dtype=torch.float16).view(shape)
            if fingerprint(result) != digest:
                return "a result changed after it was announced"
            results.append(result)
        return results

    def judge(self, what: Inputs, results: list[torch.Tensor]) -> str | None:
        """What is wrong with `results` [M, N, L] for these inputs; None when they are right."""
        operands, wants = self._expected(what)
        out = inputs.as_results(self.task, [result.to(self.device) for result in results])
        if what.data == hard.OFFICIAL:
            for got, want in zip(out, wants, strict=True):
                bad = _outside(got, want.rounded, self.task)
                if bool(bad.any()):
                    at = bad.nonzero()[0].tolist()
                    values = f"got {float(got[tuple(at)]):.6g}, want {float(want.rounded[tuple(at)]):.6g}"
                    return f"{int(bad.sum())} of {bad.numel()} outside the contest's tolerance, first {at}: {values}"
        if not self.strict:
            return None
        problem = self.task.problem(what.case)
        verdict = judge(problem, Operands(operands.a, operands.b, out), wants=wants)
        return None if verdict.ok else f"{what.data} data: {verdict}"
