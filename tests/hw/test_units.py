"""The copy and matrix units against what an H200 did with the same bits (recorded by `record_units.py`), and the
same programs
as PTX in the emulator against the units.

Layouts, conversions, integers and doubles must agree bit for bit. Floating-point products must agree bit for bit
with the accumulation
model of `units.accumulate`, and the default exact sums must be within that model's error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import nvrtc

from nvfp4.emulator import Module
from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units.mma import mma_sync, parse_mma
from nvfp4.emulator.units.tma import TensorMap, plan_load, plan_store
from nvfp4.emulator.units.wgmma import WgmmaSpec, plan_wgmma

from . import unit_programs as up
from .silicon import sums

RECORD = Path(__file__).parent / "data" / "units_sm90.npz"
ADDRESS = 0x7F0000000000


@pytest.fixture(scope="module")
def record() -> Any:
    if not RECORD.exists():
        pytest.skip("nothing recorded yet: run tests/hw/record_units.py on a GPU of compute capability 9.0")
    with np.load(RECORD) as data:
        return dict(data)


def family(name: str) -> str:
    return {"f16": "f16", "bf16": "f16", "tf32": "tf32"}.get(name, "f8")


def close(got: Any, want: Any, kind: str, k: int) -> None:
    """The exact sum and what silicon made of it: within the truncation of `k` aligned terms."""
    x, y = got.astype(np.float64), want.astype(np.float64)
    scale = np.maximum(np.abs(x), np.abs(y)).max()
    bits = {"f8": 12, "half": 9}.get(kind, 22)
    assert np.abs(x - y).max() <= (k + 2) * scale * 2.0**-bits


@pytest.mark.parametrize("program", up.WGMMA, ids=lambda w: w.name)
def test_wgmma(program: up.Wgmma, record: Any) -> None:
    silicon = record[f"wgmma/{program.name}"]
    image, a, d = program.inputs()
    base = 1024
    smem = np.zeros(base + up.IMAGE, np.uint8)
    smem[base:] = image
    t, n = program.types, tuple(bool(x) for x in program.negate)
    tr = tuple(bool(x) for x in program.transpose)
    spec = WgmmaSpec(program.n, *t, tr[0], tr[1], n[0], n[1], program.saturate)
    plan = plan_wgmma(spec, up.descriptor(program.a, base) if program.a else None, up.descriptor(program.b, base))
    regs = None if program.a else a
    exact = plan.run(smem, d, regs, bool(program.scale_d))
    if t[0] == "s32":
        np.testing.assert_array_equal(exact, silicon)
        return
    view = np.float16 if t[0] == "f16" else np.float32
    close(exact.view(view), silicon.view(view), "half" if t[0] == "f16" else family(t[1]), spec.k)
    model = acc.SILICON["sm_90 wgmma", family(t[1])]
    np.testing.assert_array_equal(plan.run(smem, d, regs, bool(program.scale_d), model), silicon)


@pytest.mark.parametrize("program", up.MMA, ids=lambda m: f"{m.name}-{m.spread}")
def test_mma(program: up.Mma, record: Any) -> None:
    spec = parse_mma(program.opcode)
    silicon = record[f"mma/{program.name}/{program.spread}"]
    a, b, c = program.inputs(spec.registers)
    exact = mma_sync(spec, (a, b, c))
    if spec.d_type in ("s32", "f64"):
        np.testing.assert_array_equal(exact, silicon)
        return
    view = np.float16 if spec.d_type == "f16" else np.float32
    close(exact.view(view), silicon.view(view), "half" if spec.d_type == "f16" else family(spec.a_type), spec.k)
    if family(spec.a_type) == "f8":
        # ptxas makes two f16 products and an addition of it.
        for warp in range(16):
            np.testing.assert_array_equal(sums.lowered_f8(spec, a[warp], b[warp], c[warp]), silicon[warp])
        return
    model = acc.SILICON["sm_90 mma", family(spec.a_type)]
    for warp in range(16):
        np.testing.assert_array_equal(mma_sync(spec, (a[warp], b[warp], c[warp]), model=model), silicon[warp])


@pytest.mark.parametrize("program", up.COPIES, ids=lambda c: c.name)
def test_copies(program: up.Copy, record: Any) -> None:
    silicon = record[f"copy/{program.name}"]
    tmap = TensorMap(
        ADDRESS,
        program.dtype,
        program.shape,
        program.strides,
        program.box,
        element_strides=program.element_strides,
        swizzle=program.swizzle,
        nan_fill=program.nan_fill,
    )
    if not silicon.size:
        # The recorder of that day gave the driver no array of strides for one dimension, and the driver refused.
        assert len(program.shape) == 1, "the driver refused this map, so the emulator should too"
        pytest.skip("not in this recording; silicon/classes/tensors.py has copies of one dimension")
    base, done = (int(x) for x in record[f"status/{program.name}"])
    assert done, "complete_tx did not count what this program expected"
    smem = np.zeros(base + up.DUMP, np.uint8)
    tensor = program.tensor()
    if program.op is None:
        smem[base:] = 0xEE
        plan_load(tmap, program.coords, base + program.offset).run(smem, tensor, ADDRESS)
        np.testing.assert_array_equal(smem[base:], silicon)
    else:
        smem[base:] = program.shared()
        before = tensor.copy()
        op = None if program.op == "store" else program.op
        plan_store(tmap, program.coords, base + program.offset, op).run(smem, tensor, ADDRESS)
        np.testing.assert_array_equal(tensor ^ before, silicon)


# ------------------------------------------------------------------------------------- the same programs in the
# emulator


def _ok(result: tuple[Any, ...]) -> Any:
    assert int(result[0]) == 0, result[0]
    return result[1] if len(result) == 2 else result[1:]


@pytest.fixture(scope="module")
def emulated() -> Module:
    """All programs as one PTX module for sm_90a."""
    text = up.source({m.opcode: parse_mma(m.opcode).registers for m in up.MMA})
    program = _ok(nvrtc.nvrtcCreateProgram(text.encode(), b"units.cu", 0, [], []))
    flags = [b"-arch=compute_90a", b"--std=c++17", b"-diag-suppress=550"]
    assert int(nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]) == 0
    ptx = b" " * _ok(nvrtc.nvrtcGetPTXSize(program))
    _ok(nvrtc.nvrtcGetPTX(program, ptx))
    return Module(ptx)


@pytest.mark.parametrize("program", up.WGMMA, ids=lambda w: w.name)
def test_wgmma_as_ptx(program: up.Wgmma, emulated: Module) -> None:
    image, a, d = program.inputs()
    out, base = np.zeros_like(d), np.zeros(4, np.uint32)
    descs = (up.descriptor(program.a) if program.a else 0, up.descriptor(program.b))
    args = [np.ascontiguousarray(image), *descs, a, d, out, base]
    emulated.launch(f"wgmma_{program.name}", 1, 128, args, shared_bytes=up.IMAGE)
    start = int(base[0])
    assert start % 1024 == 0
    smem = np.zeros(start + up.IMAGE, np.uint8)
    smem[start:] = image
    t, n, tr = program.types, tuple(bool(x) for x in program.negate), tuple(bool(x) for x in program.transpose)
    spec = WgmmaSpec(program.n, *t, tr[0], tr[1], n[0], n[1], program.saturate)
    plan = plan_wgmma(spec, up.descriptor(program.a, start) if program.a else None, up.descriptor(program.b, start))
    np.testing.assert_array_equal(out, plan.run(smem, d, None if program.a else a, bool(program.scale_d)))


@pytest.mark.parametrize("program", up.MMA, ids=lambda m: f"{m.name}-{m.spread}")
def test_mma_as_ptx(program: up.Mma, emulated: Module) -> None:
    spec = parse_mma(program.opcode)
    a, b, c = program.inputs(spec.registers)
    d = np.zeros((16, spec.registers[3], 32), c.dtype)
    emulated.launch(f"mma_{program.name}", 16, 32, [a, b, c, d])
    np.testing.assert_array_equal(d, mma_sync(spec, (a, b, c)))


@pytest.mark.parametrize("program", up.COPIES, ids=lambda c: c.name)
def test_copies_as_ptx(program: up.Copy, emulated: Module) -> None:
    tensor, shared, status = program.tensor(), program.shared(), np.zeros(4, np.uint32)
    rank = len(program.shape)
    options: dict[str, Any] = {
        "element_strides": program.element_strides, "swizzle": program.swizzle, "nan_fill": program.nan_fill,
    }  # fmt: skip
    tmap = TensorMap(tensor, program.dtype, program.shape, program.strides, program.box, **options)
    direct = TensorMap(ADDRESS, program.dtype, program.shape, program.strides, program.box, **options)
    coords = [*program.coords, *([0] * (5 - rank))]
    before = tensor.copy()
    if program.op is None:
        dump = np.zeros(up.DUMP, np.uint8)
        args = [tmap, *coords, program.offset, direct.tile_bytes, dump, status]
        emulated.launch(f"load_{rank}", 1, 32, args, shared_bytes=up.DUMP)
        base = int(status[0])
        assert status[1] == 1
        smem = np.full(base + up.DUMP, 0xEE, np.uint8)
        plan_load(direct, program.coords, base + program.offset).run(smem, before, ADDRESS)
        np.testing.assert_array_equal(dump, smem[base:])
        return
    emulated.launch(
        f"{program.op}_{rank}", 1, 32, [tmap, *coords, program.offset, shared, status], shared_bytes=up.DUMP
    )
    base = int(status[0])
    smem = np.zeros(base + up.DUMP, np.uint8)
    smem[base:] = shared
    op = None if program.op == "store" else program.op
    plan_store(direct, program.coords, base + program.offset, op).run(smem, before, ADDRESS)
    np.testing.assert_array_equal(tensor, before)
