"""Sums of tensor cores: the ISA leaves their order and rounding open, the units' model of silicon reproduces them
bit for bit.

Each function computes the recorded output of a program with random (inexact) operands out of its raw operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nvfp4.emulator.units import accumulate, mma, wgmma
from nvfp4.emulator.units.accumulate import SILICON, Alignment

from . import emulated
from .classes.matrix import TRIALS, specs
from .classes.wgmma import families
from .program import Array, Program


def element_class(kind: str) -> str:
    """The name under which `SILICON` has the parameters of an element type."""
    return {"f16": "f16", "bf16": "f16", "tf32": "tf32", "e4m3": "f8", "e5m2": "f8"}[kind]


def _half(regs: Array) -> Array:
    """f16 accumulator registers [2, 32] as float16 [16, 8], and (as it is its own inverse) back."""
    return np.ascontiguousarray(regs).view(np.float16).reshape(16, 8)


def lowered_f8(spec: mma.MmaSpec, a_regs: Array, b_regs: Array, c_regs: Array) -> Array:
    """The result registers of one warp's mma.sync on FP8, from its operand registers.

    mma.sync on FP8 has no instruction of its own on sm_90: ptxas converts to f16 and issues two HMMA and an
    addition.

    The first takes the elements 4 t and 4 t + 1 of every quad, the second the others; they start at zero, and the
    sum is
    added to C with one rounding (SASS of ptxas 13.0: F2FP.F16.E4M3.UNPACK_B, HMMA.16816, HMMA.16816, FADD).
    """
    a = mma._values(mma.fragment_a(a_regs, spec.m), spec.a_type, spec.container)
    b = mma._values(mma.fragment_b(b_regs), spec.b_type, spec.container)
    k = spec.k
    order = np.argsort(np.arange(k) % 4 // 2, kind="stable")
    half = spec.d_type == "f16"
    c = _half(c_regs) if half else mma.accumulators(np.ascontiguousarray(c_regs).view(np.float32), 16)
    model = Alignment(SILICON["sm_90 mma", "f16"].fraction_bits, group=k // 2, half=half)
    zero = np.zeros(c.shape, np.float32)
    total = accumulate.aligned(a[:, order], b[:, order], zero, ("f16", "f16"), model)
    if half:
        with np.errstate(over="ignore"):
            return (total.astype(np.float16) + c).view(np.uint32).reshape(2, 32)
    return mma.from_accumulators(total + c).view(np.uint32)


def mma_outputs(program: Program) -> Array:
    """The output of an ``mma/... random`` program by the model of sm_90."""
    family = program.name.removeprefix("mma/").removesuffix(" random")
    data = program.inputs["in"]
    rows: list[Array] = []
    at = 0
    for form in specs()[family]:
        na, nb, nc, _ = form.registers
        spec = mma.parse_mma("mma.sync.aligned." + form.opcode)
        trials = []
        for t in range(TRIALS):
            a, b, c = data[t, at : at + na], data[t, at + na : at + na + nb], data[t, at + na + nb : at + na + nb + nc]
            if spec.a_type in ("e4m3", "e5m2"):
                trials.append(lowered_f8(spec, a, b, c))
            elif spec.a_type == "f64":
                trials.append(mma.mma_sync(spec, (a, b, c)))
            else:
                model = SILICON["sm_90 mma", element_class(spec.a_type)]
                trials.append(mma.mma_sync(spec, (a, b, c), model=model))
        rows.append(np.stack(trials))
        at += na + nb + nc
    return np.concatenate(rows, axis=1)


@contextmanager
def _wgmma_by_model() -> Iterator[None]:
    """All wgmma within sum as sm_90 does."""
    exact = wgmma.WgmmaPlan.run

    def run(self: Any, smem: Any, d: Any, a_regs: Any, scale_d: bool, model: Any = None) -> Any:
        del model
        return exact(self, smem, d, a_regs, scale_d, SILICON["sm_90 wgmma", element_class(self.spec.a_type)])

    wgmma.WgmmaPlan.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        wgmma.WgmmaPlan.run = exact  # type: ignore[method-assign]


def wgmma_outputs(program: Program) -> Array:
    """The output of a ``wgmma/... random`` program by the model of sm_90."""
    with _wgmma_by_model():
        return emulated.run(program)[0]["out"]


def _outputs(program: Program) -> Iterator[tuple[str, str, slice]]:
    """(accumulator type, operand type, rows of the output) of the instructions of a program."""
    if program.inexact == "mma":
        row = 0
        for form in specs()[program.name.removeprefix("mma/").removesuffix(" random")]:
            yield form.types[0], form.types[1], slice(row, row + form.registers[3])
            row += form.registers[3]
        return
    row = 0
    for case in families()[program.name.removeprefix("wgmma/").removesuffix(" random")][1]:
        yield case.d, case.a, slice(row, row + case.registers)
        row += case.registers


def assert_close(program: Program, got: Array, want: Array) -> None:
    """Hold sums that are rounded once to what silicon gave: within what its alignment can lose.

    Silicon cuts each of up to 33 terms below 2^-25 (FP8 wgmma: 2^-13) of the largest term, and the result to 24 (14)
    bits; so the error is below 2^-18 (2^-6) of the largest term, which is at most the largest product of operands
    here, or
    the accumulator. The largest output stands for it: with random signs it is no smaller than a quarter.
    """
    moved_got, moved_want = (np.moveaxis(x, -2, 0) for x in (got, want))
    for d_type, a_type, rows in _outputs(program):
        kind = {"f16": np.float16, "f32": np.float32, "f64": np.float64}[d_type]
        x, y = (np.ascontiguousarray(m[rows]).view(kind).astype(np.float64) for m in (moved_got, moved_want))
        coarse = d_type == "f16" or (program.inexact == "wgmma" and a_type in ("e4m3", "e5m2"))
        finite = np.isfinite(x) & np.isfinite(y)
        if d_type == "f16" and a_type in ("e4m3", "e5m2"):
            continue  # most of these sums overflow float16 somewhere on the way: only their model is compared
        assert finite.mean() > 0.99, (program.name, d_type, a_type, finite.mean())
        worst = np.abs(x - y)[finite].max() / np.abs(y[finite]).max()
        assert worst <= 4 * 2.0 ** (-6 if coarse else -18), (program.name, d_type, a_type, worst)
