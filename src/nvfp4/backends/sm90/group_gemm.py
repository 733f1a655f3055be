"""Grouped GEMM on WGMMA: launches of ``sm90_{decode,group_gemm}.cu``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm90.launching import (
    activation_map,
    decode_launch,
    decode_list_launch,
    gemm_kernel,
    weight_map,
)
from nvfp4.backends.sm90.plan import THREADS, GemmPlan
from nvfp4.executors.launch import Launch, Pointer, PointerArray, Scalar, ScalarArray, TensorMapArray
from nvfp4.problem import Problem
from nvfp4.tensor import NVFP4Tensor

MAX_LISTED = 32
"""Groups of one launch in the list form: their tensor maps are parameters."""

MAX_STACKED = 1024
"""Groups in the stacked form: they have a table in shared memory."""


def launches(plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor]) -> tuple[Launch, ...]:
    """A launch for up to `MAX_LISTED` groups, after one that decodes NVFP4 activations; none without results."""
    return (_stacked if problem.stacked else _list)(plan, problem, operands, extra)


def _capacity(groups: int) -> int:
    """Groups that there is room for: a power of two, so that few variants are compiled."""
    return 1 << (groups - 1).bit_length()


def _table_bytes(capacity: int) -> int:
    return 12 * capacity + 16


def _list(plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor]) -> tuple[Launch, ...]:
    sums, counters, *decoded = extra
    present = [i for i, (m, n, _) in enumerate(problem.groups) if m and n]
    result: list[Launch] = []
    for start in range(0, len(present), MAX_LISTED):
        chosen = present[start : start + MAX_LISTED]
        capacity = _capacity(len(chosen))
        if decoded:
            quantized = [cast(NVFP4Tensor, operands.a[i]) for i in chosen]
            result.append(decode_list_launch(plan, quantized, [decoded[i] for i in chosen], capacity))
        activations = [cast(torch.Tensor, decoded[i] if decoded else operands.a[i]) for i in chosen]
        a, b = [parts(operands.a[i]) for i in chosen], [parts(operands.b[i]) for i in chosen]
        sizes = [problem.groups[i] for i in chosen]
        constants = {"BLOCKS": plan.blocks, "CAPACITY": capacity}
        launch = Launch(
            kernel=gemm_kernel(plan, problem, "group_gemm", "nvfp4_sm90_group_gemm_list", constants),
            grid=(plan.grid, 1, 1),
            block=(THREADS, 1, 1),
            shared_bytes=plan.shared_bytes + _table_bytes(capacity),
            args=(
                TensorMapArray(tuple(activation_map(x, plan.tokens) for x in activations), capacity),
                TensorMapArray(tuple(weight_map(x) for x in b), capacity),
                PointerArray(tuple(x.scales for x in b), capacity),
                PointerArray(tuple(x.tensor_scale for x in a), capacity),
                PointerArray(tuple(x.tensor_scale for x in b), capacity),
                PointerArray(tuple(operands.out[i] for i in chosen), capacity),
                *(ScalarArray("i32", tuple(size[j] for size in sizes), capacity) for j in range(3)),
                Pointer(sums),
                Pointer(counters),
                Scalar("i32", len(chosen)),
                Scalar("i32", max(k for _, _, k in sizes)),
            ),
            programmatic=True,
        )
        result.append(launch)
    return tuple(result)


def _stacked(plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor]) -> tuple[Launch, ...]:
    if 0 in (problem.m, problem.n):
        return ()
    sums, counters, *decoded = extra
    activations = operands.a[0]
    result: list[Launch] = []
    if isinstance(activations, NVFP4Tensor):
        result.append(decode_launch(plan, activations, decoded[0]))
        activations = decoded[0]
    a, b = parts(operands.a[0]), parts(operands.b[0])
    capacity = _capacity(problem.stacked)
    constants = {"BLOCKS": plan.blocks, "CAPACITY": capacity}
    launch = Launch(
        kernel=gemm_kernel(plan, problem, "group_gemm", "nvfp4_sm90_group_gemm_stacked", constants),
        grid=(plan.grid, 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=plan.shared_bytes + _table_bytes(capacity),
        args=(
            activation_map(activations, plan.tokens),
            weight_map(b),
            Pointer(b.scales),
            Pointer(a.tensor_scale),
            Pointer(b.tensor_scale),
            Scalar("i32", b.tensor_stride),
            *(Pointer(tensor) for tensor in (operands.offsets, operands.out[0], sums, counters)),
            *(Scalar("i32", size) for size in (problem.stacked, problem.m, problem.n, problem.k)),
        ),
        programmatic=True,
    )
    return (*result, launch)
