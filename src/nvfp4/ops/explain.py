"""`nvfp4.explain`: what would run a problem on an architecture, and why the other backends would not."""

from __future__ import annotations

from nvfp4 import backends
from nvfp4.device import Capability, known
from nvfp4.problem import Problem


def explain(problem: Problem, arch: str | Capability, backend: str | None = None) -> backends.Explanation:
    """The verdict of every backend on `problem`. Needs no GPU.

    Args:
        problem: What is to be computed.
        arch: A target such as ``"sm_90a"`` or ``"cpu"``, or the `Capability` of a device that is here.
        backend: The only backend to ask; None for all.

    Returns:
        An `Explanation`: printable, with the choice, all plans and all refusals.

    Raises:
        InputError: The target or the backend is not known.
    """
    return backends.explain(arch if isinstance(arch, Capability) else known(arch), problem, backend)
