"""GEMM and dual GEMM on WGMMA: launches of ``sm90_{decode,gemm,dual_gemm}.cu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvfp4.backends.base import Operand, Operands
from nvfp4.backends.operands import Parts, parts
from nvfp4.backends.sm80.constants import OUT, SCALES, ceil_div
from nvfp4.backends.sm90.plan import CHUNK, THREADS, UNIT, GemmPlan
from nvfp4.executors.launch import Kernel, Launch, Pointer, Scalar, TensorMap
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor

_ORDER_MEMORY, _ORDER_LANE = 0, 1
_DTYPE = {torch.float16: "f16", torch.bfloat16: "bf16"}
_DECODE_THREADS = 256
_DECODED_BYTES = 16  # that a thread of sm90_decode.cu writes

_counters: dict[tuple[int, int], torch.Tensor] = {}


def scratch(plan: GemmPlan, problem: Problem, operands: Operands) -> tuple[torch.Tensor, ...]:
    """Memory beside the operands: sums and counters of shared tiles, and decoded activations if they are NVFP4."""
    device = operands.out[0].device
    registers = plan.blocks * plan.tokens // 2
    sums = torch.empty(plan.grid * 2 * 2 * 128 * registers, dtype=torch.float32, device=device)
    extra = (sums, _zeroed_counters(plan.grid * 2, device))
    if problem.a.kind != "nvfp4":
        return extra
    return (*extra, *(torch.empty(x.shape, dtype=torch.float16, device=device) for x in operands.a))


def _zeroed_counters(count: int, device: torch.device) -> torch.Tensor:
    """Zeros, which the kernel leaves as it finds them: one tensor for each queue, and one for each capture of a graph."""
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    queue = torch.cuda.current_stream(device)
    key = (queue.device_index, queue.cuda_stream)
    if key not in _counters or _counters[key].numel() < count:
        _counters[key] = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
    return _counters[key]


def launches(plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor]) -> tuple[Launch, ...]:
    """One launch, and one before it that decodes NVFP4 activations; none for an empty result."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    sums, counters, *decoded = extra
    before = tuple(
        decode_launch(plan, x, out) for x, out in zip(operands.a, decoded, strict=False) if isinstance(x, NVFP4Tensor)
    )
    a = decoded[0] if decoded else operands.a[0]
    assert isinstance(a, torch.Tensor)
    dual = problem.op is Op.DUAL_GEMM
    scaled = parts(operands.a[0])
    weights = [parts(operand) for operand in operands.b]
    scales: list[Pointer | Scalar] = []
    for x in (scaled, *weights):
        scales += [Pointer(x.tensor_scale)] if dual else [Pointer(x.tensor_scale), Scalar("i32", x.tensor_stride)]
    sizes = (problem.m, problem.n, problem.k) if dual else (problem.m, problem.n, problem.k, problem.l)
    launch = Launch(
        kernel=gemm_kernel(plan, problem, "dual_gemm" if dual else "gemm"),
        grid=(plan.grid, 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=plan.shared_bytes,
        args=(
            activation_map(a, plan.tokens),
            *(weight_map(x) for x in weights),
            *(Pointer(x.scales) for x in weights),
            *scales,
            Pointer(operands.out[0]),
            Pointer(sums),
            Pointer(counters),
            *(Scalar("i32", size) for size in sizes),
        ),
        programmatic=True,
    )
    return (*before, launch)


def gemm_kernel(plan: GemmPlan, problem: Problem, name: str) -> Kernel:
    """``sm90_<name>.cu`` with its constants.

    Weights may be read before the previous kernel has ended if that is our decoder, which itself waits for what came before it.
    """
    decodes = problem.a.kind == "nvfp4"
    constants = {
        "TOKENS": plan.tokens,
        **({} if name == "dual_gemm" else {"BLOCKS": plan.blocks}),
        "CHUNKS": plan.chunks,
        "TILES": plan.tiles,
        "ORDER": _ORDER_LANE if decodes else _ORDER_MEMORY,
        "BF16": int(problem.a.kind == "bf16"),
        "B_LAYOUT": SCALES[problem.b.scale_layout],
        "OUT": OUT[problem.out_dtype],
        "BAND": plan.band,
        "EARLY_WEIGHTS": int(decodes),
    }
    return _kernel(name, plan.arch, constants)


def _kernel(name: str, arch: str, constants: dict[str, int]) -> Kernel:
    values = tuple((f"PLAN_{key}", value) for key, value in constants.items())
    return Kernel(f"sm90_{name}.cu", f"nvfp4_sm90_{name}", values, arch)


def decode_launch(plan: GemmPlan, x: Operand, out: torch.Tensor) -> Launch:
    """Decodes NVFP4 activations [M, K] or [L, M, K] to fp16, in the order that the GEMM kernels want."""
    assert isinstance(x, NVFP4Tensor)
    threads = out.numel() * out.element_size() // _DECODED_BYTES
    return Launch(
        kernel=_kernel("decode", plan.arch, {"A_LAYOUT": SCALES[x.scale_layout]}),
        grid=(ceil_div(threads, _DECODE_THREADS), 1, 1),
        block=(_DECODE_THREADS, 1, 1),
        args=(
            Pointer(x.codes),
            Pointer(x.scales),
            Pointer(out),
            Scalar("i32", x.rows),
            Scalar("i32", x.k),
            Scalar("i32", x.L),
        ),
        programmatic=True,
    )


def activation_map(x: torch.Tensor, tokens: int) -> TensorMap:
    """16-bit [M, K] or [L, M, K] in boxes of a unit x `tokens`."""
    *lead, rows, k = x.shape
    batch = lead[0] if lead else 1
    return TensorMap(
        x, _DTYPE[x.dtype], (k, rows, batch), (2 * k, 2 * k * rows), (UNIT, tokens, 1), swizzle=128, l2_promotion=256
    )


def weight_map(x: Parts) -> TensorMap:
    """Codes [N, K/2] or [L, N, K/2] in boxes of a chunk x 128 rows."""
    *lead, rows, row_bytes = x.data.shape
    batch = lead[0] if lead else 1
    box = (CHUNK * UNIT // 2, 128, 1)
    strides = (row_bytes, row_bytes * rows)
    return TensorMap(x.data, "u8", (row_bytes, rows, batch), strides, box, swizzle=128, l2_promotion=256)
