"""Element-wise reductions of the copy engines (PTX ISA 9.7.9.25.4.2 cp.reduce.async.bulk, 9.7.9.27.1.3
cp.reduce.async.bulk.tensor)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import FORMATS

_INTEGERS: dict[str, Any] = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64,
    "b32": np.uint32, "b64": np.uint64,
}  # fmt: skip
_FLOATS: dict[str, Any] = {
    "f16": np.float16,
    "bf16": np.uint16,
    "f32": np.float32,
    "f32.ftz": np.float32,
    "f64": np.float64,
}
_ALLOWED: dict[str, tuple[str, ...]] = {
    "add": ("u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f32.ftz", "f64"),
    "min": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "max": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "inc": ("u32",),
    "dec": ("u32",),
    "and": ("b32", "b64", "u32", "s32", "u64", "s64"),
    "or": ("b32", "b64", "u32", "s32", "u64", "s64"),
    "xor": ("b32", "b64", "u32", "s32", "u64", "s64"),
}


def check_reduction(op: str, kind: str) -> None:
    """`UnitError` unless PTX has the reduction `op` for elements of type `kind`."""
    if op not in _ALLOWED:
        raise UnitError(f"unknown reduction .{op}", f"use one of {', '.join('.' + o for o in _ALLOWED)}")
    if kind not in _ALLOWED[op]:
        raise UnitError(
            f"reduction .{op} on elements of type {kind}", f".{op} takes {', '.join('.' + k for k in _ALLOWED[op])}"
        )


def storage(kind: str) -> Any:
    """The NumPy dtype in which elements of type `kind` are stored (bf16 as uint16)."""
    return _INTEGERS.get(kind) or _FLOATS[kind]


def _flush(x: NDArray[np.float32]) -> NDArray[np.float32]:
    tiny = np.abs(x) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), x), x)


def combine(op: str, kind: str, old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """``old op new`` element by element, in the storage dtype of `kind`; both arrays in it, of one shape.

    f32.ftz addition flushes subnormals to zero with their sign, the other types keep them (also f32 in tensor
    reductions: recorded on an H200); all round to nearest even; min and max return the operand that is not NaN.
    """
    check_reduction(op, kind)
    with np.errstate(all="ignore"):
        if kind == "bf16":
            a, b = FORMATS["bf16"].decode(old), FORMATS["bf16"].decode(new)
            if op == "add":
                return (
                    FORMATS["bf16"]
                    .encode(a.astype(np.float64) + b.astype(np.float64), saturate=False)
                    .astype(np.uint16)
                )
            picked = np.fmin(a, b) if op == "min" else np.fmax(a, b)
            return FORMATS["bf16"].encode(picked.astype(np.float64), saturate=False).astype(np.uint16)
        if op == "add":
            if kind == "f32.ftz":
                return _flush(_flush(old) + _flush(new))
            return np.asarray(old + new)
        if op == "min":
            return np.asarray(np.fmin(old, new) if kind in _FLOATS else np.minimum(old, new))
        if op == "max":
            return np.asarray(np.fmax(old, new) if kind in _FLOATS else np.maximum(old, new))
        if op == "inc":  # wraps to zero at the operand (PTX ISA, atom.inc)
            return np.where(old >= new, 0, old + 1).astype(old.dtype)
        if op == "dec":
            return np.where((old == 0) | (old > new), new, old - 1).astype(old.dtype)
        return np.asarray({"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[op](old, new))


def bulk_reduce(op: str, kind: str, dst: NDArray[np.uint8], src: NDArray[np.uint8]) -> None:
    """``cp.reduce.async.bulk``: dst[i] = dst[i] op src[i] for contiguous bytes uint8 [n] of elements of type `kind`,
    in place."""
    if dst.size != src.size or dst.size % 16:
        raise UnitError(
            f"bulk reduction of {src.size} bytes into {dst.size}", "both sizes must be the same multiple of 16"
        )
    dtype = storage(kind)
    # PTX ISA 9.7.9.25.4.2: the addition of f32 flushes subnormal inputs and results.
    kind = "f32.ftz" if kind == "f32" else kind
    dst[:] = np.ascontiguousarray(combine(op, kind, dst.view(dtype), np.ascontiguousarray(src).view(dtype))).view(
        np.uint8
    )
