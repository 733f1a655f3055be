"""Every wrong argument raises before anything runs, and the error names operation, argument and remedy."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from tests.ops.samples import activations, weights

import nvfp4
from nvfp4 import InputError
from nvfp4.backends import torch_ops
from nvfp4.ops import _dispatch

A, B = weights(8, 64), weights(32, 64, seed=2)
BATCH_A, BATCH_B = weights(2, 8, 64), weights(2, 32, 64, seed=2)
EXPERTS = weights(3, 32, 64, seed=3)
X = activations(8, 64)
OFFSETS = torch.tensor([2, 5, 8], dtype=torch.int32)
ROWS = torch.tensor([7, 0, 0, 3, 5], dtype=torch.int32)


def stacked(a: object = X, b: object = EXPERTS, offsets: object = OFFSETS, **options: object) -> object:
    return nvfp4.group_gemm(a, b, offsets=offsets, **options)  # type: ignore[call-overload]


CASES: dict[str, tuple[Callable[[], object], str, str, str]] = {
    # name: (call, operation, argument, part of the expectation)
    "gemm, out_dtype of another type": (
        lambda: nvfp4.gemm(A, B, out_dtype=torch.float64),
        "gemm",
        "out_dtype",
        "float16",
    ),
    "gemm, out_dtype as a string": (lambda: nvfp4.gemm(A, B, out_dtype="fp16"), "gemm", "out_dtype", "torch.float16"),
    "gemm, a of a wrong type": (lambda: nvfp4.gemm([1.0], B), "gemm", "a", "NVFP4Tensor"),
    "gemm, a is None": (lambda: nvfp4.gemm(None, B), "gemm", "a", "NVFP4Tensor"),
    "gemm, fp32 activations": (lambda: nvfp4.gemm(X.float(), B), "gemm", "a", "float16 or bfloat16"),
    "gemm, packed codes without scales": (lambda: nvfp4.gemm(A.codes, B), "gemm", "a", "NVFP4"),
    "gemm, b not NVFP4": (lambda: nvfp4.gemm(A, activations(32, 64)), "gemm", "b", "an NVFP4Tensor"),
    "gemm, K differs": (lambda: nvfp4.gemm(weights(8, 80), B), "gemm", "a", "K = 64"),
    "gemm, K no multiple of 16": (lambda: nvfp4.gemm(activations(8, 72), B), "gemm", "a", "multiple of 16"),
    "gemm, one batched": (lambda: nvfp4.gemm(A, BATCH_B), "gemm", "a", "3 dimensions"),
    "gemm, L differs": (lambda: nvfp4.gemm(weights(3, 8, 64), BATCH_B), "gemm", "a", "L = 2"),
    "gemm, vector": (lambda: nvfp4.gemm(activations(64), B), "gemm", "a", "dimensions"),
    "gemm, four dimensions": (lambda: nvfp4.gemm(activations(2, 2, 8, 64), BATCH_B), "gemm", "a", "dimensions"),
    "gemm, K not contiguous": (lambda: nvfp4.gemm(activations(64, 8).t(), B), "gemm", "a", "contiguous"),
    "gemm, rows strided": (lambda: nvfp4.gemm(activations(8, 128)[:, :64], B), "gemm", "a", "contiguous"),
    "gemm, devices differ": (lambda: nvfp4.gemm(X.to("meta"), B), "gemm", "a", "device cpu"),
    "gemm, gradient": (lambda: nvfp4.gemm(X.clone().requires_grad_(), B), "gemm", "a", "no gradient"),
    "gemm, unknown backend": (lambda: nvfp4.gemm(A, B, backend="cutlass"), "backends", "backend", "torch_ops"),
    "gemm, out is no tensor": (lambda: nvfp4.gemm(A, B, out=[0]), "gemm", "out", "torch.Tensor"),
    "gemm, out dtype": (lambda: nvfp4.gemm(A, B, out=torch.empty(8, 32)), "gemm", "out", "torch.float16"),
    "gemm, out shape": (lambda: nvfp4.gemm(A, B, out=torch.empty(32, 8).half()), "gemm", "out", "(8, 32)"),
    "gemm, out strides": (lambda: nvfp4.gemm(A, B, out=torch.empty(32, 8).half().t()), "gemm", "out", "contiguous"),
    "gemm, out device": (
        lambda: nvfp4.gemm(A, B, out=torch.empty(8, 32, dtype=torch.float16, device="meta")),
        "gemm",
        "out",
        "device cpu",
    ),
    "gemm, out is an input": (
        lambda: nvfp4.gemm(X, weights(64, 64), out=X),
        "gemm",
        "out",
        "apart from `a`",
    ),
    "gemm, out overlaps codes": (
        lambda: nvfp4.gemm(X, B, out=B.codes.view(-1)[512:1024].view(torch.float16).view(8, 32)),
        "gemm",
        "out",
        "apart from `b`",
    ),
    "gemv, 17 rows": (lambda: nvfp4.gemv(B, activations(17, 64)), "gemv", "x", "at most 16"),
    "gemv, matrix not NVFP4": (lambda: nvfp4.gemv(X, activations(64)), "gemv", "a", "an NVFP4Tensor"),
    "gemv, K differs": (lambda: nvfp4.gemv(B, activations(80)), "gemv", "x", "K = 64"),
    "gemv, L differs": (lambda: nvfp4.gemv(BATCH_B, activations(3, 64)), "gemv", "x", "L = 2"),
    "gemv, vector for a batch": (lambda: nvfp4.gemv(BATCH_B, activations(64)), "gemv", "x", "dimensions"),
    "gemv, batch for a matrix": (lambda: nvfp4.gemv(B, weights(2, 1, 64)), "gemv", "x", "[N, K]"),
    "gemv, tiled [L, K]": (lambda: nvfp4.gemv(BATCH_B, weights(2, 64, layout="tiled")), "gemv", "x", "[L, N, K]"),
    "dual_gemm, gate and up differ in shape": (
        lambda: nvfp4.dual_gemm(A, B, weights(48, 64)),
        "dual_gemm",
        "b2",
        "(32, 64)",
    ),
    "dual_gemm, gate and up differ in layout": (
        lambda: nvfp4.dual_gemm(A, B, weights(32, 64, layout="tiled")),
        "dual_gemm",
        "b2",
        "linear",
    ),
    "dual_gemm, one tensor scale": (
        lambda: nvfp4.dual_gemm(A, B, weights(32, 64, scale=2.0)),
        "dual_gemm",
        "b2",
        "nvfp4[linear]",
    ),
    "dual_gemm, batch": (lambda: nvfp4.dual_gemm(BATCH_A, BATCH_B, BATCH_B), "dual_gemm", "b1", "2 dimensions"),
    "dual_gemm, K differs": (lambda: nvfp4.dual_gemm(weights(8, 32), B, B), "dual_gemm", "a", "K = 64"),
    "group_gemm, no groups": (lambda: nvfp4.group_gemm([], []), "group_gemm", "a", "at least one group"),
    "group_gemm, lengths differ": (lambda: nvfp4.group_gemm([A, A], [B]), "group_gemm", "b", "2 tensors"),
    "group_gemm, K differs in a group": (
        lambda: nvfp4.group_gemm([A, weights(8, 32)], [B, B]),
        "group_gemm",
        "a[1]",
        "K = 64",
    ),
    "group_gemm, formats differ": (
        lambda: nvfp4.group_gemm([A, weights(8, 64, layout="tiled")], [B, B]),
        "group_gemm",
        "a[1]",
        "linear",
    ),
    "group_gemm, kinds differ": (lambda: nvfp4.group_gemm([A, X], [B, B]), "group_gemm", "a[1]", "nvfp4"),
    "group_gemm, devices differ": (
        lambda: nvfp4.group_gemm([X, X.to("meta")], [B, B]),
        "group_gemm",
        "a[1]",
        "device cpu",
    ),
    "group_gemm, one out too few": (
        lambda: nvfp4.group_gemm([A, A], [B, B], out=[torch.empty(8, 32).half()]),
        "group_gemm",
        "out",
        "2 tensors",
    ),
    "group_gemm, outs overlap": (
        lambda: nvfp4.group_gemm([A, A], [B, B], out=[torch.empty(8, 32).half()] * 2),
        "group_gemm",
        "out[1]",
        "apart from `out[0]`",
    ),
    "group_gemm, out is one tensor": (
        lambda: nvfp4.group_gemm([A], [B], out=torch.empty(8, 32).half()),  # type: ignore[call-overload]
        "group_gemm",
        "out",
        "a list",
    ),
    "group_dual_gemm, gate and up differ in shape": (
        lambda: nvfp4.group_dual_gemm(X, EXPERTS, weights(3, 16, 64), offsets=OFFSETS),
        "group_dual_gemm",
        "b2",
        "(3, 32, 64)",
    ),
    "group_dual_gemm, gate and up differ in a group": (
        lambda: nvfp4.group_dual_gemm([A, A], [B, B], [B, weights(32, 64, layout="tiled")]),
        "group_dual_gemm",
        "b2[1]",
        "linear",
    ),
    "group_dual_gemm, one tensor scale": (
        lambda: nvfp4.group_dual_gemm(X, EXPERTS, weights(3, 32, 64, scale=2.0), offsets=OFFSETS),
        "group_dual_gemm",
        "b2",
        "nvfp4[linear]",
    ),
    "group_dual_gemm, lengths differ": (
        lambda: nvfp4.group_dual_gemm([A, A], [B, B], [B]),
        "group_dual_gemm",
        "b2",
        "2 tensors",
    ),
    "group_dual_gemm, no groups": (lambda: nvfp4.group_dual_gemm([], [], []), "group_dual_gemm", "a", "one group"),
    "group_dual_gemm, K differs in a group": (
        lambda: nvfp4.group_dual_gemm([A, weights(8, 32)], [B, B], [B, B]),
        "group_dual_gemm",
        "a[1]",
        "K = 64",
    ),
    "group_dual_gemm, a list among stacked operands": (
        lambda: nvfp4.group_dual_gemm(X, EXPERTS, [B], offsets=OFFSETS),  # type: ignore[call-overload]
        "group_dual_gemm",
        "b2",
        "a tensor",
    ),
    "group_dual_gemm, stacked without offsets": (
        lambda: nvfp4.group_dual_gemm(X, EXPERTS, EXPERTS),  # type: ignore[call-overload]
        "group_dual_gemm",
        "offsets",
        "end row",
    ),
    "group_dual_gemm, too many ends": (
        lambda: nvfp4.group_dual_gemm(X, EXPERTS, EXPERTS, offsets=torch.tensor([0, 2, 5, 8], dtype=torch.int32)),
        "group_dual_gemm",
        "offsets",
        "[3]",
    ),
    "group_dual_gemm, out is an input": (
        lambda: nvfp4.group_dual_gemm(X, weights(3, 64, 64), weights(3, 64, 64), offsets=OFFSETS, out=X),
        "group_dual_gemm",
        "out",
        "apart from `a`",
    ),
    "gemv, bias as a list": (lambda: nvfp4.gemv(B, X, bias=[0.0] * 32), "gemv", "bias", "torch.Tensor"),
    "gemv, bias of integers": (lambda: nvfp4.gemv(B, X, bias=torch.zeros(32).int()), "gemv", "bias", "float32"),
    "gemv, bias for another matrix": (lambda: nvfp4.gemv(B, X, bias=torch.zeros(8)), "gemv", "bias", "(32,)"),
    "gemv, bias elsewhere": (lambda: nvfp4.gemv(B, X, bias=torch.zeros(32).to("meta")), "gemv", "bias", "cpu"),
    "gemv, bias strided": (lambda: nvfp4.gemv(B, X, bias=torch.zeros(64)[::2]), "gemv", "bias", "contiguous"),
    "gemv, bias with a gradient": (
        lambda: nvfp4.gemv(B, X, bias=torch.zeros(32).requires_grad_()),
        "gemv",
        "bias",
        "no gradient",
    ),
    "group_gemm, stacked without offsets": (lambda: stacked(offsets=None), "group_gemm", "offsets", "end row"),
    "group_gemm, lists with offsets": (lambda: stacked(a=[X], b=[B]), "group_gemm", "a", "a tensor"),
    "group_gemm, int64 offsets": (lambda: stacked(offsets=OFFSETS.long()), "group_gemm", "offsets", "int32"),
    "group_gemm, leading zero": (
        lambda: stacked(offsets=torch.tensor([0, 2, 5, 8], dtype=torch.int32)),
        "group_gemm",
        "offsets",
        "[3]",
    ),
    "group_gemm, offsets as a list": (lambda: stacked(offsets=[2, 5, 8]), "group_gemm", "offsets", "int32"),
    "group_gemm, offsets elsewhere": (lambda: stacked(offsets=OFFSETS.to("meta")), "group_gemm", "offsets", "cpu"),
    "group_gemm, offsets strided": (
        lambda: stacked(offsets=torch.arange(6, dtype=torch.int32)[::2]),
        "group_gemm",
        "offsets",
        "contiguous",
    ),
    "group_gemm, stacked weights of two dimensions": (lambda: stacked(b=B), "group_gemm", "b", "3 dimensions"),
    "group_gemm, no experts": (
        lambda: stacked(b=weights(0, 32, 64), offsets=OFFSETS[:0]),
        "group_gemm",
        "b",
        "at least one group",
    ),
    "group_gemm, rows of lists": (
        lambda: nvfp4.group_gemm([X], [B], rows=ROWS),  # type: ignore[call-overload]
        "group_gemm",
        "rows",
        "None",
    ),
    "group_dual_gemm, rows of lists": (
        lambda: nvfp4.group_dual_gemm([X], [B], [B], rows=ROWS),  # type: ignore[call-overload]
        "group_dual_gemm",
        "rows",
        "None",
    ),
    "group_gemm, rows without offsets": (lambda: stacked(offsets=None, rows=ROWS), "group_gemm", "rows", "offsets"),
    "group_gemm, int64 rows": (lambda: stacked(rows=ROWS.long()), "group_gemm", "rows", "int32"),
    "group_dual_gemm, int64 rows": (
        lambda: nvfp4.group_dual_gemm(X, EXPERTS, EXPERTS, offsets=OFFSETS, rows=ROWS.long()),
        "group_dual_gemm",
        "rows",
        "int32",
    ),
    "group_gemm, rows of two dimensions": (lambda: stacked(rows=ROWS[None]), "group_gemm", "rows", "shape [T]"),
    "group_gemm, rows as a list": (lambda: stacked(rows=[0, 1]), "group_gemm", "rows", "int32"),
    "group_gemm, rows elsewhere": (lambda: stacked(rows=ROWS.to("meta")), "group_gemm", "rows", "cpu"),
    "group_gemm, rows strided": (
        lambda: stacked(rows=torch.arange(6, dtype=torch.int32)[::2]),
        "group_gemm",
        "rows",
        "contiguous",
    ),
    "group_gemm, rows of nothing": (lambda: stacked(a=X[:0], rows=ROWS), "group_gemm", "a", "at least one row"),
    "group_gemm, out has the rows of a": (
        lambda: stacked(rows=ROWS, out=torch.empty(8, 32).half()),
        "group_gemm",
        "out",
        "(5, 32)",
    ),
    "group_gemm, stacked K differs": (lambda: stacked(a=activations(8, 32)), "group_gemm", "a", "K = 64"),
}


@pytest.mark.parametrize("path", ["direct", "dispatcher"])
@pytest.mark.parametrize("name", CASES)
def test_wrong_arguments_raise_before_anything_runs(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, op, argument, expected = CASES[name]
    if path == "dispatcher":
        monkeypatch.setattr(_dispatch, "direct", lambda: False)
    with mock.patch.object(torch_ops.BACKEND, "run") as run, pytest.raises(InputError) as caught:
        call()
    run.assert_not_called()
    error = caught.value
    assert (error.op, expected in error.expected) == (op, True), str(error)
    assert error.argument == argument
    assert error.remedy
    assert error.remedy.endswith(".")
    # Asking again gives the same answer: a refused call leaves nothing behind.
    with pytest.raises(InputError, match="expected"):
        call()


def test_a_gradient_is_only_refused_where_it_would_be_recorded() -> None:
    x = X.clone().requires_grad_()
    with torch.no_grad():
        result = nvfp4.gemm(x, B)
    assert torch.equal(result, nvfp4.gemm(X, B))
    assert torch.equal(result, nvfp4.gemm(x.detach(), B))
