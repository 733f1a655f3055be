"""What ``csrc/kernels/probe.cu`` is launched with and has to give, for both executors: one program, two machines."""

from __future__ import annotations

import torch

from nvfp4.executors.launch import (
    Argument,
    Kernel,
    Launch,
    Pointer,
    PointerArray,
    Scalar,
    ScalarArray,
    TensorMap,
)

Arguments = tuple[Argument, ...]


def launch(arch: str, entry: str, *args: Argument, grid: int = 1, threads: int = 32, **rest) -> Launch:
    """A launch of the probe `entry`."""
    kernel = Kernel("probe.cu", entry, (("CONFIG_CAPACITY", 4),), arch)
    return Launch(kernel, (grid, 1, 1), (threads, 1, 1), args, **rest)


def every_parameter(device: str) -> tuple[Arguments, torch.Tensor, list[int]]:
    """Arguments of ``probe_parameters``, one of each kind; its result, and what that has to be."""
    out = torch.zeros(9, dtype=torch.int64, device=device)
    values = [torch.tensor([v], dtype=torch.int64, device=device) for v in (11, 22)]
    args = (
        Pointer(out),
        Scalar("i32", -5),
        Scalar("u32", 2**32 - 1),
        Scalar("i64", -(2**40)),
        Scalar("u64", 2**40),
        Scalar("f32", 1.25),
        PointerArray((values[0], None, values[1]), 4),
        ScalarArray("i32", (1, 2, 3), 4),
    )
    return args, out, [-5, 2**32 - 1, -(2**40), 2**40, 5, 12, 1, 25, -1]


def box(swizzle: int, device: str, offset: int = 0) -> tuple[Arguments, torch.Tensor, torch.Tensor]:
    """Arguments of ``probe_tensor_map``, which copies 8 rows of a matrix that ends after four of them; its result, and
    what that has to be.

    The swizzle of 2^b * 16 bytes exclusive-ors bits 4.. of the address with bits 7.. (PTX ISA 5.5.6).
    """
    source = torch.randint(0, 256, (65, 256), dtype=torch.uint8, device=device)
    width = swizzle or 128
    tensor_map = TensorMap(source, "u8", (256, 64), (256,), (width, 8), swizzle=swizzle, offset=offset)
    size = 8 * width
    out = torch.zeros(size, dtype=torch.uint8, device=device)
    rows = torch.zeros(8, width, dtype=torch.uint8)
    first = 60 + offset // 256
    rows[:4] = source[first : first + 4, 128 : 128 + width].cpu()  # rows beyond the tensor read as zeros
    address = torch.arange(size)
    mask = width // 16 - 1 if swizzle else 0
    expected = torch.empty(size, dtype=torch.uint8)
    expected[address ^ ((address >> 7 & mask) << 4)] = rows.flatten()
    return (Pointer(out), tensor_map, Scalar("i32", 128), Scalar("i32", 60), Scalar("i32", size)), out, expected
