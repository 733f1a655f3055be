"""Long arithmetic that a kernel repeats is one function, and a call of it is the instruction in every way."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_text import ptx_module

from nvfp4.emulator import KernelFault
from nvfp4.emulator.compile.kernel import _Kernel
from nvfp4.emulator.module import Module

# %r0 is the thread, %r4 its word; %r1 to %r3 are loaded, as literals would take the place of registers that hold them.
BEGIN = """.reg .b32 %r<9>; .reg .b64 %rd<3>; .reg .pred %p<2>;
    ld.param.u64 %rd0, [a]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd1, %r0, 4; add.s64 %rd1, %rd0, %rd1;
    ld.global.u32 %r1, [%rd0+128]; ld.global.u32 %r2, [%rd0+132]; ld.global.u32 %r3, [%rd0+136];
    ld.global.u32 %r4, [%rd1];"""


def kernel(body: str) -> Module:
    return ptx_module(f"{BEGIN} {body} st.global.u32 [%rd1], %r4; ret;", ".param .u64 a")


def functions(module: Module) -> list[str]:
    built = _Kernel(module._ast, module.entries["k"], module._globals)
    built.build()
    return sorted(name for name in built.helpers if name.startswith('"'))


def test_a_kind_is_one_function_whatever_its_registers() -> None:
    module = kernel(
        "prmt.b32 %r4, %r1, %r2, %r3; prmt.b32 %r5, %r2, %r1, %r4; prmt.b32 %r4, %r4, %r5, %r3;"
        "prmt.b32 %r4, %r4, %r4, %r3; add.s32 %r4, %r4, %r1;"
    )
    # Which operands are one register is part of the kind; what is as short as a call stays in line.
    assert functions(module) == ['"prmt.b32 32 0:32 0:32 1:32"', '"prmt.b32 32 0:32 1:32 2:32"']


def test_literals_tell_kinds_apart() -> None:
    module = kernel(
        "lop3.b32 %r4, %r1, %r2, %r0, 0x1D; lop3.b32 %r4, %r4, %r2, %r0, 0x1B;"
        "lop3.b32 %r4, %r4, 7, %r0, 0x1D; lop3.b32 %r4, %r4, %r2, %r1, 0x1D;"
    )
    assert len(functions(module)) == 3


def test_a_guard_keeps_lanes_and_a_source_may_be_the_destination() -> None:
    module = kernel("setp.lt.u32 %p0, %r0, 5; @!%p0 prmt.b32 %r4, %r4, %r0, %r3;")
    assert functions(module)
    a = np.arange(35, dtype=np.uint32) * np.uint32(0x01020304)
    a[34] = 0x0123
    want = np.where(np.arange(32) < 5, a[:32], a[:32].byteswap())
    module.launch("k", grid=1, block=32, args=[a])
    np.testing.assert_array_equal(a[:32], want)


def test_operands_that_nothing_has_written_are_found() -> None:
    module = kernel("prmt.b32 %r4, %r6, %r0, %r3;")
    assert functions(module)
    with pytest.raises(KernelFault, match="%r6"):
        module.launch("k", grid=1, block=32, args=[np.zeros(35, np.uint32)])
