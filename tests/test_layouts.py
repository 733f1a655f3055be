import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nvfp4 import layouts
from nvfp4.errors import InputError

SIZES = [(0, 0), (0, 4), (5, 0), (1, 1), (128, 4), (127, 3), (129, 5), (128, 16), (300, 9), (33, 1), (512, 448)]
BATCHES: list[tuple[int, ...]] = [(), (1,), (3,), (0,), (2, 3)]


def random_scales(rows: int, blocks: int, batch: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.randint(1, 127, (*batch, rows, blocks), dtype=torch.uint8)


def tile_byte(row: int, block: int, rows: int, blocks: int, batch: int = 0) -> int:
    """The 128x4 formula, written out as cuBLAS documents it."""
    tiles_down, tiles_across = (rows + 127) // 128, (blocks + 3) // 4
    tile = (batch * tiles_down + row // 128) * tiles_across + block // 4
    return tile * 512 + (row % 32) * 16 + ((row % 128) // 32) * 4 + block % 4


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("rows", "blocks"), SIZES)
@pytest.mark.parametrize("layout", [layouts.LINEAR, layouts.TILED])
def test_round_trip(layout: layouts.Linear | layouts.Tiled, rows: int, blocks: int, batch: tuple[int, ...]) -> None:
    scales = random_scales(rows, blocks, batch)
    storage = layout.pack(scales)
    assert tuple(storage.shape) == layout.storage_shape(rows, blocks, batch)
    assert storage.is_contiguous()
    assert torch.equal(layout.unpack(storage, rows, blocks), scales)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(("rows", "blocks"), SIZES)
def test_contest_round_trip(rows: int, blocks: int, count: int) -> None:
    scales = random_scales(rows, blocks, (count,))
    view = layouts.CONTEST.pack(scales)
    assert tuple(view.shape) == layouts.CONTEST.storage_shape(rows, blocks, (count,))
    assert torch.equal(layouts.CONTEST.unpack(view, rows, blocks), scales)
    assert torch.equal(layouts.CONTEST.unpack(view.contiguous(), rows, blocks), scales)


@given(
    rows=st.integers(1, 300),
    blocks=st.integers(1, 20),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_every_layout_stores_at_its_offset(rows: int, blocks: int, count: int, seed: int, data: st.DataObject) -> None:
    scales = torch.randint(
        0, 256, (count, rows, blocks), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    tiled = layouts.TILED.pack(scales).flatten()
    linear = layouts.LINEAR.pack(scales).flatten()
    view = layouts.CONTEST.pack(scales)
    for _ in range(8):
        batch = data.draw(st.integers(0, count - 1))
        row = data.draw(st.integers(0, rows - 1))
        block = data.draw(st.integers(0, blocks - 1))
        want = scales[batch, row, block]
        place = tile_byte(row, block, rows, blocks, batch)
        assert layouts.TILED.offset(row, block, rows, blocks, batch) == place
        assert layouts.CONTEST.offset(row, block, rows, blocks, batch) == place
        assert tiled[place] == want
        assert linear[layouts.LINEAR.offset(row, block, rows, blocks, batch)] == want
        assert view[row % 32, row % 128 // 32, row // 128, block % 4, block // 4, batch] == want


def test_offsets_of_a_padded_matrix_are_distinct_and_in_range() -> None:
    rows, blocks = 200, 7
    storage = layouts.TILED.storage_shape(rows, blocks)
    size = 1
    for extent in storage:
        size *= extent
    places = {layouts.TILED.offset(r, j, rows, blocks) for r in range(rows) for j in range(blocks)}
    assert len(places) == rows * blocks
    assert max(places) < size


@given(rows=st.integers(0, 260), blocks=st.integers(0, 10))
def test_padding_is_zero_bytes_and_is_ignored_on_read(rows: int, blocks: int) -> None:
    scales = random_scales(rows, blocks)
    storage = layouts.TILED.pack(scales)
    assert int(storage.sum(dtype=torch.int64)) == int(scales.sum(dtype=torch.int64))
    poisoned = torch.where(storage == 0, torch.tensor(0x7F, dtype=torch.uint8), storage)
    assert torch.equal(layouts.TILED.unpack(poisoned, rows, blocks), scales)
    if storage.numel() > scales.numel():
        assert (poisoned == 0x7F).sum() == storage.numel() - scales.numel()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn, torch.int8])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    scales = random_scales(130, 5).view(dtype)
    for layout in (layouts.LINEAR, layouts.TILED):
        storage = layout.pack(scales)
        assert storage.dtype == dtype
        assert torch.equal(layout.unpack(storage, 130, 5).view(torch.uint8), scales.view(torch.uint8))


def test_strided_input_is_read_by_its_strides() -> None:
    scales = random_scales(8, 130).t()
    assert torch.equal(layouts.TILED.unpack(layouts.TILED.pack(scales), 130, 8), scales)


def test_the_contest_view_copies_nothing() -> None:
    tiled = layouts.TILED.pack(random_scales(256, 8, (2,)))
    view = layouts.CONTEST.view(tiled)
    assert view.data_ptr() == tiled.data_ptr()
    assert tuple(view.shape) == (32, 4, 2, 4, 2, 2)
    assert view.stride() == (16, 4, 1024, 1, 512, 2048)
    back = layouts.CONTEST.tiled(view)
    assert back.data_ptr() == tiled.data_ptr()
    assert back.is_contiguous()
    assert torch.equal(back, tiled)


def test_layouts_are_frozen_values() -> None:
    assert layouts.Tiled() == layouts.TILED
    assert hash(layouts.Linear()) == hash(layouts.LINEAR)
    assert layouts.LINEAR != layouts.TILED
    with pytest.raises(dataclasses.FrozenInstanceError):
        layouts.TILED.name = "other"  # type: ignore[misc]
    assert layouts.by_name("linear") is layouts.LINEAR
    assert layouts.by_name("tiled") is layouts.TILED


def test_wrong_shapes_and_indices_are_refused() -> None:
    with pytest.raises(InputError, match="'linear' or 'tiled'"):
        layouts.by_name("swizzled")
    with pytest.raises(InputError, match="storage"):
        layouts.TILED.unpack(layouts.TILED.pack(random_scales(128, 4)), 129, 4)
    with pytest.raises(InputError, match="storage"):
        layouts.LINEAR.unpack(random_scales(4, 4), 4, 5)
    with pytest.raises(InputError, match="scales"):
        layouts.TILED.pack(torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(InputError, match="batch"):
        layouts.CONTEST.pack(random_scales(4, 4, (2, 2)))
    with pytest.raises(InputError, match="tiled"):
        layouts.CONTEST.view(random_scales(4, 4))
    with pytest.raises(InputError, match="rest_m"):
        layouts.CONTEST.tiled(random_scales(4, 4))
    for layout in (layouts.LINEAR, layouts.TILED, layouts.CONTEST):
        with pytest.raises(InputError, match="row, block"):
            layout.offset(4, 0, 4, 4)
        with pytest.raises(InputError, match="at least 0"):
            layout.storage_shape(-1, 4, (1,))
