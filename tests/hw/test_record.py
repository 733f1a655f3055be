"""``pytest tests/hw --device`` records the silicon vectors anew on the GPU that is present."""

from __future__ import annotations

import pytest

from .silicon import gpu, judge, store
from .silicon.classes import programs

PROGRAMS = programs()


@pytest.mark.gpu
def test_record(pytestconfig):
    if not pytestconfig.getoption("--device"):
        pytest.skip("records only when asked: --device")
    from .record import record

    assert record() == []


@pytest.mark.gpu
@pytest.mark.parametrize(
    "program", [p for p in PROGRAMS if not p.name.startswith("memory/special")], ids=lambda p: p.name
)
def test_this_gpu_answers_as_the_recorded_one(program):
    """Another Hopper GPU must give the same bits."""
    import torch

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the recordings are those of compute capability 9.0")
    want = store.recorded(program)
    assert want is not None, "record again"
    assert not [str(d) for d in judge.compare(program, gpu.run(program), want)]
