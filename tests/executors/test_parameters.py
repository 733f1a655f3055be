"""The parameter block: offsets, alignment, padding, and which bytes are addresses."""

from __future__ import annotations

import ctypes
import itertools
import struct

import pytest
import torch

from nvfp4.errors import InputError
from nvfp4.executors import parameters
from nvfp4.executors.launch import Pointer, PointerArray, Scalar, ScalarArray, TensorMap, TensorMapArray

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

    memory = bytearray(b"\xff" * len(block.data))
    memory[:] = block.data
    block.addresses.pack_into(memory, 0, 10, 11, 12, 13)

    def value(i: int, form: str):
        return struct.unpack_from("=" + form, memory, block.offsets[i])

    assert value(0, "i") == (-2,)
    assert value(1, "Q") == (10,)
    assert value(3, "4Q") == (11, 12, 0, 0)
    assert value(4, "3f") == (1.5, -2.0, 0.0)
    assert value(5, "Q") == (2**63,)
    assert value(7, "Q") == (13,)
    assert value(8, "f") == (0.25,)
    assert value(9, "q") == (-(2**40),)
    assert block.pointers == 4
    assert [slot.offset for slot in block.maps] == [block.offsets[2], block.offsets[6], block.offsets[6] + 128]
    # In the order in which a call passes addresses: pointers, then maps.
    assert parameters.tensors(args) == (T[0], T[1], None, None, T[4], T[4], T[4])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((Scalar("u64", 9), Pointer(None), Pointer(T[0])), [1, 2, 9]),
        ((PointerArray((None,), 3), Pointer(None)), [1, 0, 0, 2]),
        ((Pointer(None), PointerArray((None,), 2), Scalar("u64", 9)), [1, 2, 0, 9]),
    ],
)
def test_the_writer_fills_in_addresses_and_nothing_else(args, words):
    block = parameters.build(args)
    memory = ctypes.create_string_buffer(b"\xee" * 16 + block.data + b"\xee" * 16)
    write = parameters.writer(block, memory, 16)
    for factor in (1, 5):
        write([factor, 2 * factor])
        expected = [factor * word if word in (1, 2) else word for word in words]
        assert struct.unpack_from(f"={len(words)}Q", memory, 16) == tuple(expected)
    assert memory.raw[:16] == memory.raw[16 + len(block.data) : 32 + len(block.data)] == b"\xee" * 16


def test_no_arguments():
    block = parameters.build(())
    assert block.offsets == ()
    block.addresses.pack_into(bytearray(8), 0)


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
