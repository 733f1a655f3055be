"""The parameter block: offsets, alignment, padding, and which bytes are addresses."""

from __future__ import annotations

import itertools
import struct

import pytest
import torch

from nvfp4.errors import InputError
from nvfp4.executors import parameters
from nvfp4.executors.launch import Pointer, PointerArray, Scalar, ScalarArray, TensorMap, TensorMapArray
from nvfp4.executors.parameters import AddressRun

T = [torch.zeros(4) for _ in range(6)]
MAP = TensorMap(T[4], "f32", (4, 1), (16,), (4, 1))


def test_every_argument_is_a_parameter_in_signature_order():
    args = (
        Scalar("i32", -2),
        Pointer(T[0]),
        MAP,
        PointerArray((T[1], None), 4),
        ScalarArray("f32", (1.5, -2.0), 3),
        Scalar("u64", 2**63),
        TensorMapArray((MAP, MAP), 3),
        Pointer(None),
        Scalar("f32", 0.25),
        Scalar("i64", -(2**40)),
    )
    block = parameters.build(args)
    assert len(block.offsets) == len(args)
    sizes = [4, 8, 128, 32, 12, 8, 384, 8, 4, 8]
    alignments = [4, 8, 64, 8, 4, 8, 64, 8, 4, 8]
    spans = sorted(zip(block.offsets, sizes, strict=True))
    assert all(begin + size <= after for (begin, size), (after, _) in itertools.pairwise(spans))
    assert spans[-1][0] + spans[-1][1] <= len(block.data)
    assert all(offset % alignment == 0 for offset, alignment in zip(block.offsets, alignments, strict=True))

    def value(i: int, form: str):
        return struct.unpack_from("=" + form, block.data, block.offsets[i])

    assert value(0, "i") == (-2,)
    assert value(1, "Q") == value(7, "Q") == (0,)
    assert value(3, "4Q") == (0, 0, 0, 0)
    assert value(4, "3f") == (1.5, -2.0, 0.0)
    assert value(5, "Q") == (2**63,)
    assert value(8, "f") == (0.25,)
    assert value(9, "q") == (-(2**40),)
    assert block.runs == (AddressRun(1, 1, 1), AddressRun(3, 2, 4), AddressRun(7, 1, 1))
    assert [slot.offset for slot in block.maps] == [block.offsets[2], block.offsets[6], block.offsets[6] + 128]
    # In the order in which a call passes addresses: pointers, then maps.
    assert parameters.tensors(args) == (T[0], T[1], None, None, T[4], T[4], T[4])


@pytest.mark.parametrize(
    ("args", "sources", "starts", "copies"),
    [
        # In the order of the call: nothing is copied.
        ((Pointer(T[1]), PointerArray((T[0], T[1], T[2]), 3)), [1, 0, 1, 2], (1, 0), ()),
        # Another order, or room that must be null.
        ((PointerArray((T[1], T[0]), 2),), [1, 0], (3,), (1, 0)),
        ((PointerArray((T[0], T[1]), 4), Pointer(T[2])), [0, 1, 2], (3, 2), (0, 1, None, None)),
        ((PointerArray((T[0], None), 2),), [0, None], (3,), (0, None)),
        # Null words come first, as many as the largest array wants.
        ((Pointer(None), PointerArray((None, None), 4), Pointer(T[0])), [None, None, None, 0], (0, 0, 4), ()),
    ],
)
def test_every_address_has_a_place_in_one_table(args, sources, starts, copies):
    table = parameters.share([parameters.build(args)], [sources], 3)
    assert (table.starts, table.copies, table.count) == ((starts,), copies, 3)


def test_launches_share_a_table():
    blocks = [
        parameters.build((PointerArray((T[0], T[1]), 2), Pointer(T[1]))),
        parameters.build((PointerArray((T[0], T[1]), 4), Pointer(None), PointerArray((T[1], T[0]), 2))),
    ]
    table = parameters.share(blocks, [[0, 1, 1], [0, 1, None, 1, 0]], 3)
    assert table.nulls == 1
    assert table.starts == ((1, 2), (4, 0, 8))
    assert table.copies == (0, 1, None, None, 1, 0)


def test_no_arguments():
    block = parameters.build(())
    assert block.offsets == block.runs == block.maps == ()


@pytest.mark.parametrize(
    ("ctype", "value"), [("i32", 2**31), ("u32", -1), ("u32", 2**32), ("i64", 2**63), ("i32", 1.5), ("f16", 1)]
)
def test_numbers_that_do_not_fit_are_refused(ctype, value):
    with pytest.raises(InputError):
        parameters.build((Scalar(ctype, value),))


@pytest.mark.parametrize(
    "argument", [PointerArray((None, None), 1), ScalarArray("i32", (1, 2), 1), TensorMapArray((MAP, MAP), 1)]
)
def test_more_than_the_capacity_is_refused(argument):
    with pytest.raises(InputError, match="at most 1"):
        parameters.build((argument,))
