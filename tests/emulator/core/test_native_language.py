"""The typed subset of Python that the runtime is written in: what it computes, and what it refuses."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from nvfp4.emulator import EmulatorError
from nvfp4.emulator.native import jit
from nvfp4.emulator.native.language import Library, NativeError
from nvfp4.emulator.native.types import struct

POINT = struct("Point_", "x: u32\ny: i64\nsmall: u8\nlist: u16[5]\nnext: P[u32]\nf: f32")


def build(source: str, tmp_path: Path, **constants: int) -> jit.NativeModule:
    """Compile functions from text (the language reads source, so they have to live in a file)."""
    path = tmp_path / f"native_{abs(hash(source))}.py"
    path.write_text("from __future__ import annotations\n" + source)
    library = Library()
    library.constant(**constants)
    namespace = {"native": library.native, "__name__": "native_source"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return jit.compile_ir(library.compile(), 1, True)


def test_struct_layout_matches_numpy() -> None:
    assert POINT.dtype.fields is not None
    offsets = {n: POINT.dtype.fields[n][1] for n in POINT.dtype.fields}
    assert offsets == {"x": 0, "y": 8, "small": 16, "list": 18, "next": 32, "f": 40}
    assert POINT.dtype.itemsize == 48


def test_arithmetic_and_control(tmp_path: Path) -> None:
    code = build(
        '''
@native(inline=True)
def twice(x: u32) -> u32:
    """Called below."""
    return x * 2

@native
def collatz(n: u64) -> u32:
    steps = u32(0)
    while n != 1:
        if (n & 1) == 0:
            n = n >> 1
        elif n > LIMIT and not (n < 5):
            break
        else:
            n = 3 * n + 1
        steps += 1
    return steps

@native
def mixed(a: i32, b: u32) -> i64:
    total = i64(0)
    for i in range(3, 20, 4):
        if i == 7:
            continue
        total += i * a
    x = u8(b)
    return total + i64(x) - (i64(twice(b)) if a < 0 else 0) + popcount(b) + max(a, 5)
''',
        tmp_path,
        LIMIT=1 << 60,
    )
    collatz = code.function("collatz", ctypes.c_uint32, ctypes.c_uint64)
    assert [collatz(n) for n in (1, 2, 7, 27)] == [0, 1, 16, 111]
    mixed = code.function("mixed", ctypes.c_int64, ctypes.c_int32, ctypes.c_uint32)
    for a, b in ((2, 300), (-3, 255), (100, 0xFFFFFFFF)):
        want = sum(i for i in range(3, 20, 4) if i != 7) * a + (b & 255) + bin(b).count("1") + max(a, 5)
        assert mixed(a, b) == want - (2 * b & 0xFFFFFFFF if a < 0 else 0)


def test_memory_and_floats(tmp_path: Path) -> None:
    code = build(
        """
@native
def visit(p: Point_, n: u32) -> f32:
    for i in range(n):
        q = p + i
        q.x += u32(i)
        q.list[i % 5] = u16(q.x * 3)
        q.y = -q.y
        q.f = q.f * 0.5 + f32(q.x)
        if q.next != 0:
            q.next[1] = q.small
    return (p + 1).f
""",
        tmp_path,
    )
    points = np.zeros(4, POINT.dtype)
    target = np.zeros(3, np.uint32)
    points["x"], points["y"], points["small"], points["f"] = [1, 2, 3, 4], [5, -6, 7, 8], 9, 2.0
    points["next"][2] = target.ctypes.data
    visit = code.function("visit", ctypes.c_float, ctypes.c_uint64, ctypes.c_uint32)
    assert visit(points.ctypes.data, 4) == 4.0
    assert points["x"].tolist() == [1, 3, 5, 7]
    assert points["y"].tolist() == [-5, 6, -7, -8]
    assert points["list"].tolist() == [[3, 0, 0, 0, 0], [0, 9, 0, 0, 0], [0, 0, 15, 0, 0], [0, 0, 0, 21, 0]]
    assert target.tolist() == [0, 9, 0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return x + nothing", "unknown name"),
        ("return missing(x)", "unknown function"),
        ("return x.field", "not a struct"),
        ("return [x]", "not in the language"),
        ("with x: pass", "not in the language"),
        ("for y in x: pass", "only range"),
    ],
)
def test_refusals(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NativeError, match=message):
        build(f"@native\ndef f(x: u32) -> u32:\n    {body}\n", tmp_path)


def test_stored_machine_code_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_directory", lambda: tmp_path)
    text = "define i32 @f() {\n  ret i32 42\n}"

    def value() -> int:
        return int(jit.compile_ir(text, 1, False).function("f", ctypes.c_int32)())

    assert value() == 42
    (stored,) = tmp_path.glob("*.o")
    assert value() == 42  # from the file
    data = bytearray(stored.read_bytes())
    data[100] ^= 255
    stored.write_bytes(bytes(data))
    assert value() == 42  # a damaged file counts as a miss
    stored.write_bytes(b"")
    assert value() == 42


def test_a_cpu_without_half_conversions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features = dict(jit.llvm.get_host_cpu_features())
    if "f16c" not in features:
        pytest.skip("not an x86 CPU")
    monkeypatch.setattr(jit, "_ready", False)
    monkeypatch.setattr(jit.llvm, "get_host_cpu_features", lambda: {**features, "f16c": False})
    with pytest.raises(EmulatorError, match="lacks f16c"):
        jit.compile_ir("define void @f() {\n  ret void\n}", 0, False)


def test_vectors(tmp_path: Path) -> None:
    code = build(
        """
@native
def work(x: P[u32], y: P[f32], out: P[u32], sums: P[f64], table: P[u64]) -> u32:
    a = pointer(V[u32, 16], x)[0]
    big = a > 7
    b = select(big, a * 3 - 1, a ^ iota(V[u32, 16]))
    pointer(V[u32, 16], out)[0] = ~b if any(a == 99) else b
    low = cast(V[f64, 8], part(pointer(V[f32, 16], y)[0], 0, 8))
    high = cast(V[f64, 8], part(pointer(V[f32, 16], y)[0], 8, 8))
    pointer(V[f64, 8], sums)[0] = fma(low, high, cast(V[f64, 8], 0.5))
    pointer(V[f64, 8], sums)[1] = max(low, high) / 2.0
    even = part(a, 0, 8, 2)
    pointer(V[u32, 16], out)[1] = weave(even, part(a, 1, 8, 2))
    picked = gather(table, even & 3) + (cast(V[u64, 8], even) << 32)
    pointer(V[u64, 8], out + 32)[0] = picked
    pointer(V[u32, 16], out)[3] = reinterpret(V[u32, 16], join(part(picked, 0, 4), -part(picked, 4, 4)))
    return mask_of(big) + (u32(65536) if all(a < 100) else 0)
""",
        tmp_path,
    )
    x, y = np.arange(16, dtype=np.uint32), np.linspace(-3, 4, 16, dtype=np.float32)
    table = np.array([5, 1 << 40, 7, 9], np.uint64)
    out, sums = np.zeros(64, np.uint32), np.zeros(16)
    work = code.function("work", ctypes.c_uint32, *[ctypes.c_uint64] * 5)
    assert work(*(int(v.ctypes.data) for v in (x, y, out, sums, table))) == 0xFF00 + 65536
    assert (out[:16] == np.where(x > 7, x * 3 - 1, 0)).all()
    assert (out[16:32] == x).all()
    wide = y.astype(np.float64)
    assert (sums[:8] == wide[:8] * wide[8:] + 0.5).all()
    assert (sums[8:] == np.maximum(wide[:8], wide[8:]) / 2).all()
    picked = table[x[::2] & 3] + (x[::2].astype(np.uint64) << np.uint64(32))
    assert (out[32:48].view(np.uint64) == picked).all()
    assert (out[48:].view(np.uint64) == np.concatenate([picked[:4], -picked[4:]])).all()


@pytest.mark.parametrize(
    "body",
    ["return cast(V[u32, 4], part(pointer(V[u32, 8], x)[0], 0, 8))[0]", "return any(pointer(V[u32, 8], x)[0])"],
)
def test_vector_misuse_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(NativeError):
        build(f"\n@native\ndef bad(x: P[u32]) -> u32:\n    {body}\n", tmp_path)
