"""Data beyond the contest's: what its own generators would never show.

The contest's GEMV data has no signs, a zero high nibble and scales 0 to 2; elsewhere values stay within 1.5. These
distributions are those of `nvfp4.check.inputs`. Scales stay positive: the block scales of tensor cores are unsigned
(PTX ISA, ``ue4m3``), so a submission need not take others.
"""

from __future__ import annotations

import torch

from nvfp4.check.inputs import DISTRIBUTIONS
from nvfp4.contest.inputs import Data, Rule, generate
from nvfp4.contest.tasks import Case, Task
from nvfp4.errors import InputError

OFFICIAL = "official"
NAMES = (OFFICIAL, *DISTRIBUTIONS)
"""Names of data: the task's own, then the hard ones."""


def _rule(name: str) -> Rule:
    sampler = DISTRIBUTIONS[name]

    def draw(generator: torch.Generator, batch: int, rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = sampler(generator, batch, rows, k)
        return drawn.codes, drawn.scales & 0x7F

    return draw


def make(task: Task, case: Case, name: str, seed: int, device: torch.device | str) -> Data:
    """Inputs of `case` in the contest's form.

    Args:
        task: The task.
        case: Its sizes.
        name: One of `NAMES`.
        seed: Decides the values, on one kind of device.
        device: Where they lie.
    """
    if name not in NAMES:
        raise InputError("contest", "data", "one of " + ", ".join(NAMES), repr(name), "Name one of them.")
    return generate(task, case, device=device, seed=seed, distribution=None if name == OFFICIAL else _rule(name))
