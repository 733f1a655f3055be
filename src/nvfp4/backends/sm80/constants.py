"""Names of formats in the device code of this backend (``csrc/mma/tile.cuh``, ``decode/``, ``epilogue/``)."""

from __future__ import annotations

from nvfp4.executors.launch import Kernel
from nvfp4.problem import Format

KIND = {"nvfp4": 0, "fp16": 1, "bf16": 2}
SCALES = {"linear": 0, "tiled": 1, "": 0}
OUT = {"fp16": 0, "bf16": 1, "fp32": 2}
BIAS = {"": 0, "fp16": 1, "bf16": 2, "fp32": 3}

Constants = dict[str, int]


def kernel(name: str, entry: str, arch: str, constants: Constants) -> Kernel:
    """The kernel `entry` of ``sm80_<name>.cu`` with its constants."""
    return Kernel(f"sm80_{name}.cu", entry, tuple((f"CONFIG_{key}", value) for key, value in constants.items()), arch)


def programmatic(arch: str) -> bool:
    """Whether a launch may begin before the previous kernel has ended, which saves the host 0.5 us too."""
    return int("".join(filter(str.isdigit, arch))) >= 90


def kind(form: Format) -> int:
    """``KIND_*`` of an operand."""
    return KIND[form.kind]


def scales(form: Format) -> int:
    """``SCALES_*`` of an operand."""
    return SCALES[form.scale_layout]


def ceil_div(value: int, unit: int) -> int:
    """`value` / `unit`, rounded up."""
    return -(-value // unit)
