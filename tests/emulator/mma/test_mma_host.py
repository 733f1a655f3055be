"""mma.sync forms that the units carry out, run as PTX: every form of the recorder's list plus block scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nvfp4.emulator import Module
from nvfp4.emulator.units.mma import mma_sync, parse_mma

FORMS = [
    "m16n8k16.row.col.f16.f16.f16.f16",
    "m16n8k8.row.col.f16.f16.f16.f16",
    "m16n8k16.row.col.f32.bf16.bf16.f32",
    "m16n8k8.row.col.f32.tf32.tf32.f32",
    "m16n8k32.row.col.f32.e4m3.e5m2.f32",
    "m16n8k32.row.col.f16.e4m3.e4m3.f16",
    "m16n8k32.row.col.s32.s8.u8.s32",
    "m16n8k16.row.col.satfinite.s32.u8.s8.s32",
    "m8n8k16.row.col.s32.s8.s8.s32",
    "m16n8k64.row.col.s32.s4.u4.s32",
    "m8n8k4.row.col.f64.f64.f64.f64",
    "m16n8k16.row.col.f64.f64.f64.f64",
    "m16n8k32.row.col.kind::f8f6f4.f32.e2m1.e3m2.f32",
    "m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.e2m1.f32.ue8m0",
    "m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0",
    "m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3",
]


def kernel(opcode: str, counts: tuple[int, ...], wide: bool, selectors: tuple[int, ...] | None) -> str:
    """PTX: lane l loads its registers from arrays [n, 32], runs the instruction and stores D."""
    size, kind = (8, "b64") if wide else (4, "b32")
    reg = "f64" if wide else "b32"
    lines, names, loads = [], {}, []
    for index, (matrix, count) in enumerate(zip("abcd", counts, strict=True)):
        lines.append(f".reg .{reg} {matrix}<{count}>;" if count else "")
        names[matrix] = "{" + ", ".join(f"{matrix}{i}" for i in range(count)) + "}"
        if matrix != "d":
            loads.append(f"ld.param.u64 p, [{matrix}_in]; add.s64 p, p, off;")
            loads += [f"ld.global.{kind} {matrix}{i}, [p+{32 * size * i}];" for i in range(count)]
        del index
    scale = ""
    if selectors is not None:
        lines.append(".reg .b32 s<2>;")
        loads.append("ld.param.u64 p, [s_in]; mul.wide.u32 q, lane, 4; add.s64 p, p, q;")
        loads += ["ld.global.b32 s0, [p];", "ld.global.b32 s1, [p+128];"]
        scale = f", s0, {{{selectors[0]}, {selectors[1]}}}, {{s1}}, {{{selectors[2]}, {selectors[3]}}}"
    stores = ["ld.param.u64 p, [d_out]; add.s64 p, p, off;"]
    stores += [f"st.global.{kind} [p+{32 * size * i}], d{i};" for i in range(counts[3])]
    return f"""
.version 8.8
.target sm_120a
.address_size 64
.visible .entry run(.param .u64 a_in, .param .u64 b_in, .param .u64 c_in, .param .u64 s_in, .param .u64 d_out)
{{
    .reg .b32 lane; .reg .b64 p, q, off;
    {" ".join(lines)}
    mov.u32 lane, %tid.x;
    mul.wide.u32 off, lane, {size};
    {chr(10).join(loads)}
    mma.sync.aligned.{opcode} {names["d"]}, {names["a"]}, {names["b"]}, {names["c"]}{scale};
    {chr(10).join(stores)}
    ret;
}}
"""


def bits(rng: Any, kind: str, shape: tuple[int, int]) -> Any:
    """Registers full of finite numbers."""
    if kind == "f64":
        return rng.standard_normal(shape).view(np.uint64)
    if kind in ("f32", "tf32"):
        return rng.standard_normal(shape).astype(np.float32).view(np.uint32)
    if kind in ("f16", "bf16"):
        x = rng.standard_normal((*shape, 2)).astype(np.float32)
        halves = x.astype(np.float16).view(np.uint16) if kind == "f16" else (x.view(np.uint32) >> 16).astype(np.uint16)
        return np.ascontiguousarray(halves).view(np.uint32)[..., 0]
    raw = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    return raw & np.uint32(0xBFBFBFBF) if kind in ("e4m3", "e5m2") else raw


@pytest.mark.parametrize("form", FORMS)
def test_form(form: str) -> None:
    spec = parse_mma("mma.sync.aligned." + form)
    rng = np.random.default_rng(0)
    wide = spec.a_type == "f64"
    a, b, c = (
        bits(rng, k, (n, 32)) for k, n in zip((spec.a_type, spec.b_type, spec.c_type), spec.registers, strict=False)
    )
    scales, selectors = None, None
    if spec.scales:
        base = 0x38 if spec.scale_type == "ue4m3" else 127
        scales = (base + rng.integers(-2, 3, (2, 32, 4))).astype(np.uint8).view(np.uint32)[..., 0]
        selectors = {1: (2, 1, 3, 2), 2: (2, 0, 0, 3), 4: (0, 1, 0, 1)}[spec.scales]
    d = np.zeros((spec.registers[3], 32), np.uint64 if wide else np.uint32)
    text = kernel(form, spec.registers, wide, selectors)
    buffer = scales if scales is not None else np.zeros((2, 32), np.uint32)
    Module(text).launch("run", 1, 32, [a, b, c, np.ascontiguousarray(buffer), d])
    want = mma_sync(spec, (a, b, c), None if scales is None else (scales[0], scales[1]), selectors or (0, 0, 0, 0))
    np.testing.assert_array_equal(d, want)
