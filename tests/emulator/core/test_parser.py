"""PTX text: what is understood, and how malformed text is refused."""

# ruff: noqa: E501 - CUDA and PTX text
from __future__ import annotations

import numpy as np
import pytest
from cuda_text import module, ptx_module

from nvfp4.emulator import LaunchError, Module, PtxSyntaxError, UnsupportedPtx

HEAD = ".version 8.8\n.target sm_90a\n.address_size 64\n"


def test_entries_and_directives() -> None:
    m = Module(HEAD + ".visible .entry f(.param .u64 a, .param .align 64 .b8 b[128]) .reqntid 64, 1, 1 { ret; }")
    assert list(m.entries) == ["f"]
    assert m.entries["f"].directives["reqntid"] == (64, 1, 1)
    assert m.target == "sm_90a"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (HEAD + ".visible .entry f() {\n  add.s32 %r1, %r1, 1;\n ret;\n}", 5, "%r1 is not declared"),
        (HEAD + ".visible .entry f() {\n .reg .b32 %r<2>;\n  add.s32 %r1, %r1 1;\n ret;\n}", 6, "expected ',' or ';'"),
        (HEAD + ".visible .entry f() {\n bra nowhere;\n}", 5, "undefined label nowhere"),
        (HEAD + ".visible .entry f() {\n .reg .b33x %r;\n}", 5, "register type"),
        (HEAD + ".visible .entry f() {\n a:\n ret;\n a:\n ret; }", 7, "defined twice"),
        ("hello", 1, "expected a declaration"),
        (HEAD + ".visible .entry f() {", 4, "end of the file"),
        (
            HEAD + ".visible .entry f() {\n .reg .b32 %r<9>;\n cp.async.ca.shared.global [%r1], [%r2], 5;\n ret;\n}",
            6,
            "4, 8 or 16",
        ),
    ],
)
def test_malformed(text: str, line: int, message: str) -> None:
    with pytest.raises(PtxSyntaxError, match=f"PTX line {line}: .*{message}"):
        Module(text).compile("f")


def test_unsupported_opcodes_are_named_at_load() -> None:
    text = (
        HEAD
        + ".visible .entry f() {\n .reg .b32 %r<4>; .reg .b64 %d<4>;\n istypep.texref %r1, %d1;\n tex.1d.v4.f32.s32 {%r0,%r1,%r2,%r3}, [%d1, {%r1}];\n ret;\n}"
    )
    with pytest.raises(UnsupportedPtx, match=r"istypep\.texref") as caught:
        Module(text)
    assert caught.value.opcodes == {"istypep.texref": 6, "tex.1d.v4.f32.s32": 7}
    assert Module(text, allow_unsupported=True).unsupported["istypep.texref"] == 6


def test_calls_without_a_body_are_named_at_load() -> None:
    text = ".extern .func (.param .b64 r) malloc (.param .b64 n);\n.visible .entry f() { .param .b64 r; .param .b64 n;\n call.uni (r), malloc, (n); ret; }"
    with pytest.raises(UnsupportedPtx, match="call malloc"):
        Module(HEAD + text)


def test_scopes_rename_registers_and_labels() -> None:
    m = ptx_module(
        """.reg .b32 %r<4>; .reg .b64 %p;
        mov.u32 %r0, 5;
        { .reg .b32 %r<4>; .reg .pred q; mov.u32 %r0, 0;
          again: add.u32 %r0, %r0, 1; setp.lt.u32 q, %r0, 3; @q bra again; }
        { .reg .b32 %x; again: mov.u32 %x, 7; add.u32 %r0, %r0, %x; }
        ld.param.u64 %p, [out]; st.global.u32 [%p], %r0;""",
        ".param .u64 out",
    )
    out = np.zeros(1, np.uint32)
    m.launch("k", grid=1, block=1, args=[out])
    assert out[0] == 12


def test_device_functions_are_inlined() -> None:
    source = """
    __device__ __noinline__ int twice(int x) { return x < 0 ? -1 : 2 * x; }
    __device__ __noinline__ float mix(float a, int n, float* p) { *p = a; return a * n + twice(n); }
    extern "C" __global__ void k(float* out) { float keep; float v = mix(threadIdx.x, 3, &keep); out[threadIdx.x] = v + keep; }
    """
    m = module(source)
    out = np.zeros(64, np.float32)
    m.launch("k", grid=1, block=64, args=[out])
    np.testing.assert_array_equal(out, np.arange(64) * 4 + 6)


def test_recursion_is_refused() -> None:
    text = ".func f() { call.uni f, (); ret; }\n.visible .entry k() { call.uni f, (); ret; }"
    with pytest.raises(PtxSyntaxError, match="recursive"):
        Module(HEAD + text).launch("k", grid=1, block=1)


def test_module_variables_pointers_and_printf() -> None:
    source = """
    __device__ int table[4] = {1, 2, 3, 4}; __constant__ float scale = 2.5f; __device__ int* where = table + 2;
    #include <cuda_fp16.h>
    extern "C" int printf(const char*, ...);
    extern "C" __global__ void k(float* out) { out[threadIdx.x] = scale * table[threadIdx.x] + *where; if (threadIdx.x == 1) printf("%d of %s: %.2f\\n", 7, "ten", 1.5); }
    """
    m = module(source)
    m.variable("table").view(np.int32)[0] = 10
    out = np.zeros(4, np.float32)
    report = m.launch("k", grid=1, block=4, args=[out])
    np.testing.assert_array_equal(out, np.array([10, 2, 3, 4]) * 2.5 + 3)
    assert report.output == ["7 of ten: 1.50\n"]


COPY = 'extern "C" __global__ void k(const float* a, float* b, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) b[i] = a[i]; }'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": [np.zeros(4, np.float32)]}, "takes 3 arguments"),
        ({"args": [np.zeros(4, np.float32), "x", 4]}, "not a buffer"),
        ({"args": [np.zeros(4, np.float32), np.zeros(4, np.float32), 1.5]}, "integer"),
        ({"args": [np.zeros(4, np.float32), np.zeros(4, np.float32), 1 << 40]}, "cannot hold"),
        ({"args": [np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(1)]}, "not a pointer"),
        ({"block": 2048}, "1024"),
        ({"block": (1, 1, 128)}, "64 in z"),
        ({"grid": 0}, "positive"),
        ({"grid": (1, 70000)}, "65535"),
        ({"cluster": 32, "grid": 32}, "at most 16"),
        ({"cluster": 2, "grid": 3}, "multiple of the cluster"),
        ({"shared_bytes": 300_000}, "232448"),
        ({"entry": "nothing"}, "no kernel"),
    ],
)
def test_bad_launches(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "entry": "k",
        "grid": 1,
        "block": 32,
        "args": [np.zeros(32, np.float32), np.zeros(32, np.float32), 32],
    }
    with pytest.raises(LaunchError, match=message):
        module(COPY).launch(**{**good, **change})  # type: ignore[arg-type]


def test_torch_tensors_and_views() -> None:
    torch = pytest.importorskip("torch")
    a, b = torch.arange(64, dtype=torch.float32), torch.zeros(64)
    module(COPY).launch("k", grid=1, block=32, args=[a[8:], b[4:], 20])
    assert b[4:24].tolist() == a[8:28].tolist()
    assert b[24:].abs().sum() == 0


def test_pointers_in_arrays() -> None:
    source = 'extern "C" __global__ void k(float* const* rows, float* out) { out[threadIdx.x] = rows[threadIdx.x][2]; }'
    m = module(source)
    rows = [np.arange(4, dtype=np.float32) * n for n in range(3)]
    table = np.array([m.address_of(r) for r in rows], np.uint64)
    out = np.zeros(3, np.float32)
    m.launch("k", grid=1, block=3, args=[table, out])
    assert out.tolist() == [0, 2, 4]
