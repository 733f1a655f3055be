"""Humming as a peer: NVFP4 weights with 16-bit activations on any GPU, kernels compiled when first used.

Package ``humming-kernels`` (module ``humming``, seen with 0.1.19). It needs a CUDA compiler and the CUDA headers with
CCCL: an installed toolkit, or ``pip install "humming-kernels[cu13]"``. A layer takes weights in the ModelOpt form
(codes [N, K/2], E4M3 scales [N, K/16], fp32 tensor scale), shuffles them once in ``transform``, and is then called
with activations [M, K].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from nvfp4.backends.base import Operand, Operands
from nvfp4.bench import peers
from nvfp4.bench.peers import Peer
from nvfp4.bench.timing import Call
from nvfp4.device import Capability
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor

ACTIVATIONS = torch.bfloat16


def _weights(operand: Operand) -> NVFP4Tensor:
    if not isinstance(operand, NVFP4Tensor):
        raise InputError("bench", "operand", "NVFP4 weights", type(operand).__name__, "Pass NVFP4Tensor weights.")
    return operand


def _layer(codes: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor | None) -> Any:
    """A Humming layer for weights [N, K] or [G, N, K] with linear scales."""
    from humming.layer import HummingLayer

    experts = codes.shape[0] if codes.dim() == 3 else None
    scale = torch.ones((), device=codes.device) if tensor_scale is None else tensor_scale.float()
    layer = HummingLayer(
        shape_n=codes.shape[-2],
        shape_k=2 * codes.shape[-1],
        weight_config={"quant_method": "modelopt", "quant_algo": "nvfp4"},
        num_experts=experts,
        torch_dtype=ACTIVATIONS,
    ).to(codes.device)
    full = scale.reshape(-1).expand(experts or 1).contiguous()
    layer.load_from_tensors({"weight": codes, "weight_scale": scales, "weight_scale_2": full})
    layer.transform()
    return layer


def _one(x: torch.Tensor, weights: NVFP4Tensor) -> Call:
    layer = _layer(weights.codes, weights.linear_scales(), weights.tensor_scale)
    rows = x.to(ACTIVATIONS).contiguous()
    return lambda: layer(rows)


def _joined(operands: tuple[Operand, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Codes, linear scales and tensor scale of weights that lie below each other: (B,), or B1 and B2."""
    weights = [_weights(x) for x in operands]
    codes = torch.cat([x.codes for x in weights], dim=-2)
    # torch.cat does not know float8 everywhere; bytes it does.
    scales = torch.cat([x.linear_scales().view(torch.uint8) for x in weights], dim=-2).view(torch.float8_e4m3fn)
    return codes, scales, weights[0].tensor_scale if len(weights) == 1 else None


def _groups(problem: Problem, operands: Operands) -> Call:
    if problem.stacked:
        codes, scales, scale = _joined(operands.b)
        rows = peers.dense(operands.a[0], ACTIVATIONS)
        assert operands.offsets is not None
        ends = operands.offsets.long()
    else:
        weights = [_joined(operands.weights(i)) for i in range(len(operands.a))]
        codes = torch.stack([x for x, _, _ in weights])
        scales = torch.stack([x.view(torch.uint8) for _, x, _ in weights]).view(torch.float8_e4m3fn)
        given = [x.reshape(()) for _, _, x in weights if x is not None]
        scale = torch.stack(given) if given else None
        rows = torch.cat([peers.dense(x, ACTIVATIONS) for x in operands.a])
        ends = torch.tensor([m for m, _, _ in problem.groups], device=codes.device).cumsum(0)
    layer = _layer(codes, scales, scale)
    starts = torch.nn.functional.pad(ends, (1, 0)).long()
    config = {"gemm_type": "grouped_contiguous"}
    if problem.op.dual:
        return lambda: peers.silu_times(layer(rows, expert_layout=starts, compute_config=config))
    return lambda: layer(rows, expert_layout=starts, compute_config=config)


SILU_TIMES = {"activation_type": "binary_split", "activation_impl": "a / (1.0f + __expf(-a)) * b"}
"""Arguments of Humming's elementwise kernel (`humming.ops.process_input`) that join gate and up of a row."""


class Experts:
    """The stacked weights of a mixture of experts in Humming, for its indexed and its grouped kernel.

    The indexed kernel takes the tokens as they are, [tokens, K], with lists of which rows a block multiplies with which
    expert; results are in the order of the tokens. The grouped kernel takes rows in the order of the experts.

    Args:
        weights: B, or B1 and B2: NVFP4 [G, N, K].
    """

    def __init__(self, weights: tuple[Operand, ...]) -> None:
        self.layer = _layer(*_joined(weights))
        self.dual = len(weights) == 2
        self.experts = weights[0].shape[0]

    def indexed(self, x: torch.Tensor, experts: torch.Tensor) -> Call:
        """A call on tokens.

        Args:
            x: bf16 [tokens, K].
            experts: Experts of each token, int64 [tokens, top_k].

        Returns:
            The call; its result is [tokens * top_k, N], the experts of a token one after another.
        """
        tuning, texts = self._tuned("indexed", experts.numel(), x.device)
        ids, blocks = aligned(experts, self.experts, tuning["block_shape"][0])
        padded = torch.tensor(ids.numel(), dtype=torch.int32, device=x.device)
        tensors = {"sorted_ids": ids, "expert_ids": blocks, "num_tokens_padded": padded}
        top_k = experts.shape[1]
        return self._joining(lambda: self.layer(x, top_k=top_k, **tensors, **texts))

    def grouped(self, rows: torch.Tensor, ends: torch.Tensor) -> Call:
        """A call on rows [T, K] (bf16) in the order of the experts; `ends` is the end row of each."""
        starts = torch.nn.functional.pad(ends.long(), (1, 0))
        _, texts = self._tuned("grouped_contiguous", rows.shape[0], rows.device)
        return self._joining(lambda: self.layer(rows, expert_layout=starts, **texts))

    def _tuned(self, kind: str, rows: int, device: torch.device) -> tuple[dict[str, Any], dict[str, str]]:
        """What Humming's heuristics choose for so many rows, and the arguments of a call that say so.

        The same as a call without them takes; but such a first call compiles the kernels of every number of rows.
        """
        from humming.tune import get_heuristics_config

        tuning = get_heuristics_config(self.layer.humming_config, shape_m=rows, gemm_type=kind, device=device)
        return tuning, {"compute_config": json.dumps({"gemm_type": kind}), "tuning_config": json.dumps(tuning)}

    def _joining(self, product: Callable[[], torch.Tensor]) -> Call:
        if not self.dual:
            return product
        from humming.ops import process_input

        return lambda: process_input(product(), **SILU_TIMES)[0]


def aligned(experts: torch.Tensor, count: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of every expert, padded to whole blocks, as indexed kernels take them.

    Args:
        experts: Experts of each token, int64 [tokens, top_k].
        count: Number of experts.
        block: Rows of a block.

    Returns:
        Indices into the flattened `experts` (int32), sorted by expert, with ``experts.numel()`` for padding; and the
        expert of each block (int32).
    """
    flat = experts.flatten()
    sizes = torch.bincount(flat, minlength=count)
    blocks = (sizes + block - 1) // block
    order = torch.argsort(flat, stable=True)
    begins = torch.cumsum(sizes, 0) - sizes
    padded = (torch.cumsum(blocks, 0) - blocks) * block
    place = padded[flat[order]] + torch.arange(flat.numel(), device=flat.device) - begins[flat[order]]
    ids = torch.full((int(blocks.sum()) * block,), flat.numel(), dtype=torch.int32, device=flat.device)
    ids[place] = order.int()
    return ids, torch.repeat_interleave(torch.arange(count, device=flat.device), blocks).int()


def _prepare(silu: bool) -> Any:
    def prepare(problem: Problem, operands: Operands) -> Call:
        if problem.op.grouped:
            return _groups(problem, operands)
        if problem.op is Op.DUAL_GEMM:
            layer = _layer(*_joined(operands.b))
            rows = peers.dense(operands.a[0], ACTIVATIONS)
            return (lambda: peers.silu_times(layer(rows))) if silu else (lambda: layer(rows))
        # The matrix of a GEMV is its weight, and its vectors are the activations.
        left, right = operands.a[0], operands.b[0]
        x, weights = (right, _weights(left)) if problem.op is Op.GEMV else (left, _weights(right))
        values = peers.dense(x, ACTIVATIONS).reshape(problem.l, -1, problem.k)
        matrices = [weights] if weights.ndim == 2 else [weights[i] for i in range(problem.l)]
        calls = [_one(rows, matrix) for rows, matrix in zip(values, matrices, strict=True)]
        return calls[0] if len(calls) == 1 else (lambda: [call() for call in calls])

    return prepare


def _refuse(silu: bool) -> Any:
    def refuse(capability: Capability, problem: Problem) -> tuple[str, ...]:
        reasons = []
        if capability.arch == "cpu":
            reasons.append("needs a GPU")
        if not peers.installed("humming"):
            reasons.append('not installed: pip install "humming-kernels[cu13]"')
        if not silu and problem.op is not Op.DUAL_GEMM:
            reasons.append("only dual GEMM has an activation to leave out")
        weights = problem.a if problem.op is Op.GEMV else problem.b
        if weights.kind != "nvfp4":
            reasons.append("weights must be NVFP4")
        if problem.op.dual and problem.b.tensor_scale:
            reasons.append("tensor scales of two weights are not joined here")
        if len({(n, k) for _, n, k in problem.groups}) > 1:
            reasons.append("groups must agree in N and K")
        return tuple(reasons)

    return refuse


HUMMING: tuple[Peer, ...] = (
    Peer(
        "humming",
        "Humming, NVFP4 weights and bf16 activations; dual: one product and eager silu*mul; batches: a loop",
        _refuse(silu=True),
        _prepare(silu=True),
    ),
    Peer(
        "humming-products",
        "Humming, NVFP4 weights and bf16 activations, the products of dual GEMM without silu*mul",
        _refuse(silu=False),
        _prepare(silu=False),
        same=False,
    ),
)
