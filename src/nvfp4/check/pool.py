"""Many cases on many targets: one after another, or in worker processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import torch

from nvfp4.check.run import Case, Inputs, Outcome, Target, run_case

Tell = Callable[[Case, Target], None]
"""Told about every case and target: before it runs, or with worker processes once its outcome is there."""

Judged = tuple[Target, Outcome]
"""What ran a case, and what became of it."""

_MAKERS = 8  # threads that make inputs ahead: the GPU then waits for none of them


def run_cases(cases: Sequence[Case], targets: Sequence[Target], jobs: int, tell: Tell) -> Iterator[Judged]:
    """The outcomes of every case on every target, in order: case by case, and of a case target by target.

    Inputs and exact answers are made once for all targets of a case.

    Args:
        cases: What to run.
        targets: What runs it; all on one device.
        jobs: Worker processes; 1 for none. They share the caches of compiled kernels, and the GPU where there is one.
        tell: Told what runs.
    """
    if jobs > 1 and len(cases) > 1:
        yield from _in_processes(cases, targets, min(jobs, len(cases)), tell)
        return
    for prepared in _prepared(cases, targets[0].device):
        for target in targets:
            tell(prepared.case, target)
            yield target, run_case(prepared.case, target, prepared)


def _prepared(cases: Sequence[Case], device: str) -> Iterator[Inputs]:
    """The inputs of every case in order. For a GPU they are made ahead by several threads: the GPU is far quicker."""
    if device == "cpu":
        yield from (Inputs(case, device) for case in cases)
        return
    workers = min(_MAKERS, os.cpu_count() or 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each worker is one; more would only wait for each other
    try:
        with ThreadPoolExecutor(workers) as pool:
            ahead = deque(pool.submit(Inputs, case, device) for case in cases[:workers])
            for index in range(len(cases)):
                yield ahead.popleft().result()
                if index + workers < len(cases):
                    ahead.append(pool.submit(Inputs, cases[index + workers], device))
    finally:
        torch.set_num_threads(threads)


def _in_processes(cases: Sequence[Case], targets: Sequence[Target], jobs: int, tell: Tell) -> Iterator[Judged]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Spawned, because a forked process cannot use CUDA once its parent did.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,))
    try:
        for outcomes in pool.map(functools.partial(_run_one, tuple(targets)), cases):
            for target, outcome in zip(targets, outcomes, strict=True):
                tell(outcome.case, target)
                yield target, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _run_one(targets: tuple[Target, ...], case: Case) -> tuple[Outcome, ...]:
    """One case on all targets, in a worker process."""
    prepared = Inputs(case, targets[0].device)
    return tuple(run_case(case, target, prepared) for target in targets)
