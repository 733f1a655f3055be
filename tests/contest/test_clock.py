"""Order of a sample on a GPU, against a made-up device: nothing here needs one."""

from types import SimpleNamespace

import pytest
import torch

from nvfp4.contest import clock


class FakeEvents:
    """torch's C++ base class of events, as far as a clock uses it."""

    def __init__(self, log):
        self.log, self.count = log, 0

    def __call__(self, enable_timing):
        assert enable_timing
        self.count += 1
        return self.count

    def record(self, event, queue):
        self.log.append(f"event {event} in {queue}")

    def synchronize(self, event):
        self.log.append(f"wait for {event}")

    def elapsed_time(self, begin, end):
        return {(1, 2): 5.0}[begin, end]


class FakeLibrary:
    def __init__(self, log):
        self.log, self.persisting = log, 0

    def cuCtxResetPersistingL2Cache(self):
        self.log.append("reset persisting")
        return 0

    @property
    def cuCtxGetLimit(self):
        def query(target, limit):
            assert limit == 6
            target._obj.value = self.persisting
            return 0

        return query


@pytest.fixture
def made(monkeypatch):
    log = []
    library = FakeLibrary(log)
    state = SimpleNamespace(queue=0, device=0)
    real_empty = torch.empty
    monkeypatch.setattr(torch._C, "_CudaEventBase", FakeEvents(log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "queue")
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: state.queue, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_synchronize", lambda: log.append("wait for all"), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: state.device, raising=False)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("hold"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1 << 20))
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device=None: real_empty(16, dtype=dtype))
    monkeypatch.setattr(clock.libcuda, "library", lambda: library)
    return clock.CudaClock("cuda"), log, library, state


@pytest.mark.parametrize("probe", [False, True])
def test_order_of_a_sample(made, probe):
    device, log, _, _ = made
    calls = [lambda i=i: log.append(f"call {i}") or i for i in range(2)]
    taken = device.sample(calls, lambda number, result: log.append(f"capture {number} {result}"), probe=probe)
    assert taken.seconds == 5e-3
    assert taken.wall >= 0
    before = ["wait for all", "reset persisting", "hold", "event 1 in queue"]
    if probe:
        middle = ["call 0", "capture 0 0", "call 1", "capture 1 1", "event 2 in queue"]
    else:
        middle = ["call 0", "call 1", "event 2 in queue", "capture 0 0", "capture 1 1"]
    assert log == [*before, *middle, "event 3 in queue", "wait for 2", "wait for 3", "wait for all"]


def test_a_patched_event_changes_nothing(made, monkeypatch):
    device, _, _, _ = made
    monkeypatch.setattr(torch.cuda, "Event", None)
    monkeypatch.setattr(torch.cuda, "synchronize", None)
    assert device.sample([lambda: 0], lambda number, result: None, probe=False).seconds == 5e-3


def test_disturbances(made):
    device, _, library, state = made
    assert device.disturbances() == ()
    library.persisting = 1 << 20
    assert "L2" in device.disturbances()[0]
    library.persisting, state.queue = 0, 7
    assert "another queue" in device.disturbances()[0]
    state.queue, state.device = 0, 1
    assert "another device" in device.disturbances()[0]


def test_the_cpu_is_a_device_too():
    device = clock.make("cpu")
    seen = []
    taken = device.sample([lambda: 1, lambda: 2], lambda number, result: seen.append((number, result)), probe=False)
    assert seen == [(0, 1), (1, 2)]
    assert taken.seconds > 0
    assert device.disturbances() == ()
