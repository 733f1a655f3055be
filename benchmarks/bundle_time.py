"""Host time of one call of each contest bundle, from ``custom_kernel(data)`` into the launch, in microseconds.

    python benchmarks/bundle_time.py                    # bundles for this machine's GPU, on their benchmark cases
    python benchmarks/bundle_time.py --stand-in sm_90a  # without a GPU: all but the driver's own time

A bundle is made, written to a file and imported as the contest does it. Calls go to a few sets of inputs in turn, and
are queued while the device is held, as the contest's flush holds it; the best of several batches counts, because
anything else on the machine only adds time. The goal is 6 us.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from host_time import nothing

from nvfp4.contest import inputs
from nvfp4.contest.bundle import blank, bundle
from nvfp4.contest.tasks import TASKS, Task, task_of
from nvfp4.device import capability

SETS = 3
BATCH = 150
"""Calls between two waits: fewer than the launches that a device's queue holds."""
HOLD = 30_000_000
"""Clock ticks that the device is held: longer than the host needs for a batch."""


def load(text: str) -> ModuleType:
    """The bundle as a module."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "submission.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("submission", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def without_a_gpu(module: ModuleType) -> None:
    """Put a driver that does nothing in the place of the real one."""
    library = SimpleNamespace(
        cuLaunchKernelEx=nothing(), cuFuncSetAttribute=lambda *_: 0, cuTensorMapEncodeTiled=lambda *_: 0
    )
    module.__dict__["_driver"] = lambda: library
    module.__dict__["_function"] = lambda name: 1
    module.__dict__["torch"] = SimpleNamespace(
        zeros=torch.zeros, uint8=torch.uint8, cuda=SimpleNamespace(synchronize=lambda: None)
    )


def microseconds(module: ModuleType, sets: list[inputs.Data], device: str, repeat: int) -> float:
    """The best time of a call over `repeat` batches."""
    call = module.custom_kernel
    order = [sets[i % len(sets)] for i in range(BATCH)]
    for data in sets:
        call(data)  # compiles, and lays the parameters out
    found = float("inf")
    for _ in range(repeat):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda._sleep(HOLD)
        begin = time.perf_counter()
        for data in order:
            call(data)
        found = min(found, time.perf_counter() - begin)
    return found / BATCH * 1e6


def measure(task: Task, arch: str, device: str, repeat: int) -> Iterator[tuple[str, float]]:
    """(case, microseconds) of each benchmark case."""
    module = load(bundle(task, arch, cases=task.benchmarks).text)
    if device == "cpu":
        without_a_gpu(module)
    for case in task.benchmarks:
        if device == "cpu":
            sets = [blank(task, case) for _ in range(SETS)]
        else:
            sets = [inputs.generate(task, case, device=device, seed=seed) for seed in range(SETS)]
        yield task.line(case), microseconds(module, sets, device, repeat)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--stand-in", metavar="ARCH", help="run without a GPU, with a driver that does nothing")
    parser.add_argument("--repeat", type=int, default=10, help=f"batches of {BATCH} calls")
    arguments = parser.parse_args()
    device = "cpu" if arguments.stand_in else "cuda"
    arch = arguments.stand_in or capability("cuda").arch
    for name in arguments.task:
        for case, us in measure(task_of(name), arch, device, arguments.repeat):
            print(f"{us:6.2f} us  {name}  {case}", flush=True)


if __name__ == "__main__":
    main()
