"""Records the silicon vectors on the GPU that is present: ``python -m tests.hw.record [--only CLASS]``.

Every program runs twice; an answer that changes from run to run is an error of the program, and nothing is stored
for its class.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .silicon import store
from .silicon.classes import programs
from .silicon.program import Array, Program

# A class that takes longer hangs.
_SECONDS = 40


def provenance() -> dict[str, Any]:
    """Device, driver, compiler, date and commit of a recording."""
    import torch

    from nvfp4.jit import toolkit

    driver = ""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    root = Path(__file__).resolve().parents[2]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name(0),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        "driver": driver,
        "nvrtc": toolkit.nvrtc_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": head.stdout.strip() if head.returncode == 0 else "unknown (the digests name the programs)",
    }


def run_twice(program: Program) -> dict[str, Array]:
    """The outputs of a program on the GPU.

    Raises:
        RuntimeError: They differ between two runs.
    """
    from .silicon import gpu

    first, second = gpu.run(program), gpu.run(program)
    for name in first:
        if not np.array_equal(first[name].view(np.uint8), second[name].view(np.uint8)):
            raise RuntimeError(f"{program.name}: output {name} differs from run to run")
    return first


def record(only: str = "") -> list[str]:
    """Record all classes (or the one called `only`); returns the failures, one line each.

    A class is stored as far as it went: the test of a program that is missing says so.
    """
    where = provenance()
    failures: list[str] = []
    chosen = [p for p in programs() if only in ("", p.klass)]
    for klass in dict.fromkeys(p.klass for p in chosen):
        results: dict[str, dict[str, Array]] = {}
        digests: dict[str, str] = {}
        for program in (p for p in chosen if p.klass == klass):
            try:
                results[program.name] = run_twice(program)
                digests[program.name] = program.digest()
            except Exception as error:
                failures.append(f"{program.name}: {type(error).__name__}: {str(error)[:500]}")
                print("failed", failures[-1], flush=True)
                if "illegal" in str(error) or "misaligned" in str(error) or "unspecified" in str(error):
                    # The context is lost: later programs need a fresh process (see `main`).
                    _save(klass, results, digests, where)
                    raise SystemExit(3) from error
        _save(klass, results, digests, where)
    return failures


def _save(klass: str, results: dict[str, dict[str, Array]], digests: dict[str, str], where: dict[str, Any]) -> None:
    if results:
        path = store.save(klass, results, digests, where)
        print(f"{klass}: {len(results)} programs, {path.stat().st_size:,} bytes", flush=True)


def _in_a_process(klass: str) -> tuple[bool, str]:
    """Whether all of a class was recorded, and what the process said."""
    name = __spec__.name if __spec__ else "tests.hw.record"
    command = [sys.executable, "-m", name, "--here", "--only", klass]
    try:
        done = subprocess.run(command, check=False, timeout=_SECONDS, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return False, f"{klass}: not done after {_SECONDS} s\n"
    return done.returncode == 0, done.stdout + (done.stderr[-2000:] if done.returncode not in (0, 1, 3) else "")


def main() -> int:
    """Records each class in a process of its own, so that a fault in one leaves the others alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        return 1 if record(options.only) else 0
    classes = list(dict.fromkeys(p.klass for p in programs() if options.only in ("", p.klass)))
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = list(pool.map(_in_a_process, classes))
    for _, text in outcomes:
        print(text, end="")
    failed = [klass for klass, (ok, _) in zip(classes, outcomes, strict=True) if not ok]
    print("classes with failures:", failed or "none")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
