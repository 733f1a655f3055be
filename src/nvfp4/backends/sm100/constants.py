"""Names that the device code of this backend knows (``csrc/pipeline/sm100_shape.cuh``), and its sizes."""

from __future__ import annotations

from enum import IntEnum

OUT = {"fp16": 0, "bf16": 1, "fp32": 2}
SCALES = {"linear": 0, "tiled": 1}
VECTORS = {"nvfp4": 0, "fp16": 1, "bf16": 2}
OUT_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}

CHUNK = 256
"""Elements along K of a pipeline stage: 128 bytes of codes, a line of the swizzle."""

STEPS = 4
"""Instructions of 64 elements in a chunk."""

LANES = 128
"""Lanes of tensor memory: rows of an accumulator, and threads that store it."""

STAGED_ROWS = 32
"""Rows and columns of the squares of results that a warp lays out in shared memory."""

SCALE_TILE_BYTES = 512
"""A tile of 128 x 4 scales."""

TENSOR_COLUMNS = 512
"""Columns of the tensor memory of a multiprocessor."""

SHARED_LEAST = 115 * 1024
"""Shared memory that a block asks for at least: more than half of a multiprocessor's, so that no two meet on one.

Two pairs of blocks on the same two multiprocessors could each get the tensor memory of one, and wait for the
other's for ever.
"""

SHARED_SLACK = 1024
"""Dynamic shared memory that aligning the first stage may take."""


class Cluster(IntEnum):
    """What two blocks of a cluster share.

    NONE: nothing, there is no cluster. MULTICAST: the tile of X. PAIR: one instruction, for 128 rows of X in each
    block. HALVES: one instruction, for 64 rows of X in each.
    """

    NONE = 0
    MULTICAST = 1
    PAIR = 2
    HALVES = 3

    @property
    def pairs(self) -> bool:
        """Whether one instruction works for both blocks."""
        return self in (Cluster.PAIR, Cluster.HALVES)


class Schedule(IntEnum):
    """How tiles come to blocks.

    SINGLE: one each. STATIC: in turn, to as many blocks as the device holds at once. TAKEOVER: one each, and then those
    of blocks that have not started (clusterlaunchcontrol).
    """

    SINGLE = 0
    STATIC = 1
    TAKEOVER = 2


class ScaleMode(IntEnum):
    """How the scales of an operand come to shared memory."""

    TENSOR_MAP = 0
    FROM_LINEAR = 1
    FROM_TILED = 2


def ceil_div(value: int, unit: int) -> int:
    """`value` / `unit`, rounded up."""
    return -(-value // unit)
