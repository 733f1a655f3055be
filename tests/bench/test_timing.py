"""The timing protocol on a fake clock: order, stopping, cold windows, statistics."""

import pytest

from nvfp4.bench import timing
from nvfp4.bench.timing import Protocol, Samples
from nvfp4.errors import InputError
from nvfp4.problem import Op


class FakeTimer:
    """A device whose calls say themselves how long they take; every sample advances the wall clock."""

    def __init__(self, overhead=0.01):
        self.clock = 0.0
        self.overhead = overhead
        self.log = []
        self.captured = 0

    def sample(self, run):
        self.queued = []
        run()
        self.log.append(list(self.queued))
        device = sum(seconds for _, seconds in self.queued)
        self.clock += device + self.overhead
        return device, 1e-6 * len(self.queued)

    def capture(self, calls):
        self.captured += 1
        recorded = list(calls)
        return lambda: [call() for call in recorded]

    def now(self):
        return self.clock

    def calls(self, name, times):
        def one(index, seconds):
            def call():
                self.queued.append(((name, index), seconds() if callable(seconds) else seconds))

            return call

        return [one(index, seconds) for index, seconds in enumerate(times)]


def test_time_is_per_call_and_distinct_inputs_are_used_in_turn():
    timer = FakeTimer()
    got = timing.compare(
        {"a": timer.calls("a", [1e-5, 3e-5])}, Protocol("back-to-back", 2, warmup=1, max_samples=3), timer
    )
    assert got["a"].seconds == pytest.approx([2e-5] * 3)
    assert got["a"].host == pytest.approx([1e-6] * 3)
    assert [index for (_, index), _ in timer.log[0]] == [0, 1]


def test_one_call_a_sample_goes_through_all_inputs():
    timer = FakeTimer()
    timing.compare({"a": timer.calls("a", [1e-5] * 3)}, Protocol("event-pair", 1, warmup=0, max_samples=5), timer)
    assert [entry[0][0][1] for entry in timer.log] == [0, 1, 2, 0, 1]


def test_rounds_interleave_and_rotate():
    timer = FakeTimer()
    subjects = {name: timer.calls(name, [1e-5]) for name in "abc"}
    timing.compare(subjects, Protocol("event-pair", 1, warmup=1, max_samples=4), timer)
    order = [entry[0][0][0] for entry in timer.log]
    assert order == list("abc") + list("abc") + list("bca") + list("cab") + list("abc")


def test_warmup_is_thrown_away():
    timer = FakeTimer()
    slow_first = iter([5.0, 5.0] + [1e-5] * 10)
    calls = timer.calls("a", [lambda: next(slow_first)])
    got = timing.compare({"a": calls}, Protocol("event-pair", 1, warmup=2, max_samples=4), timer)
    assert max(got["a"].seconds) < 1e-4


def test_it_stops_when_the_error_is_small_but_not_before_the_least_wall_time():
    timer = FakeTimer(overhead=0.01)
    got = timing.compare({"a": timer.calls("a", [1e-5])}, Protocol("event-pair", 1, max_samples=200), timer)
    assert len(got["a"].seconds) == 10  # 0.1 s of wall time; the samples do not differ at all


def test_noise_goes_on_to_the_limit():
    timer = FakeTimer(overhead=0.01)
    toggle = iter([1e-5, 2e-5] * 500)
    got = timing.compare(
        {"a": timer.calls("a", [lambda: next(toggle)])}, Protocol("event-pair", 1, max_samples=50), timer
    )
    assert len(got["a"].seconds) == 50


def test_one_noisy_subject_keeps_all_going_so_that_rounds_pair():
    timer = FakeTimer(overhead=0.01)
    toggle = iter([1e-5, 2e-5] * 500)
    subjects = {"noisy": timer.calls("noisy", [lambda: next(toggle)]), "calm": timer.calls("calm", [1e-5])}
    got = timing.compare(subjects, Protocol("event-pair", 1, max_samples=40, warmup=2), timer)
    assert len(got["noisy"].seconds) == len(got["calm"].seconds) == 40
    assert timing.paired_ratio(got["noisy"], got["calm"]) == pytest.approx(1.5)


def test_limits_of_device_and_wall_time():
    protocol = Protocol("event-pair", 1)
    noisy = [1.0, 2.0] * 4
    assert protocol.enough(noisy, wall=1.0)  # 12 s on the device
    assert not protocol.enough([1e-5, 2e-5, 1e-5], wall=1.0)
    assert protocol.enough([1e-5, 2e-5, 1e-5], wall=121.0)
    assert not protocol.enough([1e-5, 1e-5], wall=1.0)


def test_graphs_are_captured_once_and_replayed():
    timer = FakeTimer()
    got = timing.compare(
        {"a": timer.calls("a", [1e-5] * 4)}, Protocol("graph", 4, graph=True, warmup=1, max_samples=5), timer
    )
    assert timer.captured == 1
    assert all([index for (_, index), _ in entry] == [0, 1, 2, 3] for entry in timer.log)
    assert got["a"].median == pytest.approx(1e-5)


def test_protocols_by_name():
    assert timing.protocol("back-to-back", Op.GEMM).calls == 50
    assert timing.protocol("back-to-back", Op.GROUP_GEMM).calls == 15
    assert timing.protocol("event-pair", Op.GEMV).calls == 1
    assert timing.protocol("graph", Op.GEMV, max_samples=7, calls=8) == Protocol("graph", 8, graph=True, max_samples=7)
    with pytest.raises(InputError, match="back-to-back"):
        timing.protocol("vibes", Op.GEMM)


def test_statistics():
    samples = Samples(tuple(float(i) for i in range(1, 12)))
    assert samples.median == samples.mean == 6
    assert samples.spread == pytest.approx((10 - 2) / 6)
    assert samples.error == pytest.approx(11**0.5 / 11**0.5)
    assert Samples((2.0,)).spread == Samples((2.0,)).error == 0
    assert timing.geomean([1, 100]) == pytest.approx(10)


def test_paired_ratio_survives_a_drift():
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert timing.paired_ratio(Samples(tuple(2 * d for d in drift)), Samples(tuple(drift))) == pytest.approx(2)
    with pytest.raises(InputError, match="interleaved"):
        timing.paired_ratio(Samples((1.0,)), Samples((1.0, 2.0)))


def test_input_count():
    mb = 10**6
    assert timing.input_count(66 * mb, 50, 60 * mb, 100_000 * mb) == 50
    assert timing.input_count(66 * mb, 50, 60 * mb, 1000 * mb) == 15
    assert timing.input_count(1 * mb, 50, 60 * mb, 10 * 1000 * mb) == 50
    with pytest.raises(InputError, match="caches stay cold"):
        timing.input_count(66 * mb, 50, 60 * mb, 130 * mb)


def test_nothing_to_time():
    with pytest.raises(InputError, match="calls to time"):
        timing.compare({"a": []}, Protocol("event-pair", 1), FakeTimer())


@pytest.mark.gpu
def test_cuda_timer_measures_a_copy():
    import torch

    timer = timing.CudaTimer()
    source = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds, host = timer.sample(lambda: target.copy_(source))
    assert 1e-6 < seconds < 1
    assert 0 < host < 1
    replay = timer.capture([lambda: target.copy_(source)] * 3)
    assert timer.sample(replay)[0] > 2 * seconds
