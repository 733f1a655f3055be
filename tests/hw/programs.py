"""Small problems that cover every path of the plain kernels; run on a GPU and in the emulator alike."""

from __future__ import annotations

from nvfp4.problem import Format, Op, Problem

LINEAR, TILED = Format("nvfp4", "linear"), Format("nvfp4", "tiled")
SCALED_LINEAR, SCALED_TILED = Format("nvfp4", "linear", True), Format("nvfp4", "tiled", True)
FP16, BF16 = Format("fp16", ""), Format("bf16", "")

SMALL: tuple[Problem, ...] = (
    # gemv: M, N, K, L, matrix, vectors. K a multiple of 32 and not; K beyond a chunk; several vectors; ragged rows.
    Problem(Op.GEMV, 9, 1, 64, 1, LINEAR, LINEAR, "fp32"),
    Problem(Op.GEMV, 130, 1, 48, 2, SCALED_TILED, SCALED_LINEAR, "fp16"),
    Problem(Op.GEMV, 5, 3, 1040, 1, LINEAR, TILED, "bf16"),
    Problem(Op.GEMV, 17, 16, 2080, 1, TILED, TILED, "fp32"),
    Problem(Op.GEMV, 3, 1, 9216, 1, TILED, LINEAR, "fp16"),
    Problem(Op.GEMV, 9, 2, 96, 2, SCALED_LINEAR, FP16, "fp16"),
    Problem(Op.GEMV, 9, 5, 80, 1, TILED, BF16, "bf16"),
    # gemm: 16-row and 64-row tiles, ragged M, N and K, odd N (no paired stores), batches.
    Problem(Op.GEMM, 1, 1, 16, 1, LINEAR, LINEAR, "fp32"),
    Problem(Op.GEMM, 16, 65, 80, 2, SCALED_LINEAR, SCALED_TILED, "fp16"),
    Problem(Op.GEMM, 65, 129, 144, 1, TILED, TILED, "bf16"),
    Problem(Op.GEMM, 64, 64, 128, 1, LINEAR, TILED, "fp32"),
    Problem(Op.GEMM, 33, 70, 96, 1, FP16, SCALED_LINEAR, "fp16"),
    Problem(Op.GEMM, 33, 71, 112, 2, BF16, TILED, "bf16"),
    Problem(Op.DUAL_GEMM, 5, 7, 64, 1, LINEAR, LINEAR, "fp32"),
    Problem(Op.DUAL_GEMM, 70, 66, 80, 1, SCALED_TILED, SCALED_TILED, "fp16"),
    Problem(Op.DUAL_GEMM, 20, 64, 48, 1, FP16, LINEAR, "fp32"),
    Problem(Op.DUAL_GEMM, 20, 64, 48, 1, BF16, SCALED_TILED, "bf16"),
    Problem(Op.GROUP_GEMM, 88, 70, 96, 1, LINEAR, LINEAR, "fp16", groups=((3, 17, 32), (20, 70, 96), (65, 64, 16))),
    Problem(Op.GROUP_GEMM, 18, 33, 64, 1, SCALED_TILED, SCALED_TILED, "fp32", groups=((1, 33, 64), (17, 5, 48))),
    Problem(Op.GROUP_GEMM, 20, 24, 64, 1, BF16, LINEAR, "bf16", groups=((20, 24, 64),)),
    Problem(Op.GROUP_GEMM, 150, 40, 80, 1, LINEAR, LINEAR, "fp16", stacked=3),
    Problem(Op.GROUP_GEMM, 70, 65, 64, 1, SCALED_TILED, SCALED_TILED, "fp32", stacked=40),
    Problem(Op.GROUP_GEMM, 30, 24, 48, 1, FP16, SCALED_LINEAR, "fp16", stacked=2),
    # gate and up of experts: several groups of lists, more groups than a warp has lanes, empty groups, each kind of A.
    Problem(Op.GROUP_DUAL_GEMM, 88, 70, 96, 1, LINEAR, TILED, "fp16", groups=((3, 17, 32), (20, 70, 96), (65, 64, 16))),
    Problem(Op.GROUP_DUAL_GEMM, 18, 33, 64, 1, BF16, SCALED_TILED, "fp32", groups=((1, 33, 64), (17, 5, 48))),
    Problem(Op.GROUP_DUAL_GEMM, 150, 40, 80, 1, SCALED_TILED, SCALED_LINEAR, "bf16", stacked=3),
    Problem(Op.GROUP_DUAL_GEMM, 70, 65, 64, 1, LINEAR, SCALED_TILED, "fp32", stacked=40),
    Problem(Op.GROUP_DUAL_GEMM, 30, 24, 48, 1, FP16, SCALED_LINEAR, "fp16", stacked=2),
)

DISTRIBUTIONS = ("uniform", "largest", "smallest", "one-hot")
