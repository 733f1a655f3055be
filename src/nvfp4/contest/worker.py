"""The process that holds a submission: imports it, calls it, times it, and hands everything that it returned over.

It decides nothing. Inputs are drawn from seeds that the evaluator sends, results go to files, and the evaluator judges
them in its own process (`nvfp4.contest.evaluate`), which never imports a submission. Started as
``python -m nvfp4.contest.worker IN OUT`` with two file descriptors.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import importlib.util
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nvfp4.contest import cases, clock, hard, inputs
from nvfp4.contest.channel import Closed, Message, Receiver, Sender
from nvfp4.contest.fingerprint import fingerprint
from nvfp4.contest.integrity import Snapshot
from nvfp4.contest.tasks import Case, Task, task_of
from nvfp4.errors import NVFP4Error
from nvfp4.problem import Op

_POISON = 0x7D5A
"""Bits of an fp16 NaN that no arithmetic gives."""


class Rejected(NVFP4Error):
    """What a submission returned or did is not acceptable; the message says why."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(eq=False)
class Prepared:
    """One set of inputs.

    Attributes:
        data: What the submission is given.
        inputs, outputs: The tensors in it.
        hashes: Fingerprints of the inputs as they should be.
    """

    data: Any
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    hashes: list[int]


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte and the one behind the last of a tensor's elements."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    (a0, a1), (b0, b1) = _span(a), _span(b)
    return a.device == b.device and a0 < b1 and b0 < a1


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)


class Session:
    """A loaded submission and what was prepared for it."""

    def __init__(self, settings: Message) -> None:
        if settings["threads"]:
            torch.set_num_threads(settings["threads"])
        self.task: Task = task_of(settings["task"])
        self.clock = clock.make(settings["device"])
        self.scratch = Path(settings["scratch"])
        self.sets: list[Prepared] = []
        self.results: list[list[torch.Tensor]] = []
        self.case: Case = self.task.tests[0]
        self.submission: Callable[[Any], Any]
        self.snapshot: Snapshot
        self._earlier: list[list[torch.Tensor]] = []
        self._notes: set[str] = set()

    def load(self, path: str, emulate: str | None) -> Message:
        """Import the submission."""
        self.snapshot = Snapshot()
        spec = importlib.util.spec_from_file_location("submission", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["submission"] = module
        sys.path.insert(0, str(Path(path).parent))  # where the contest runs it
        spec.loader.exec_module(module)
        function = getattr(module, "custom_kernel", None)
        if not callable(function):
            raise Rejected("missing", "the file defines no function custom_kernel(data)")
        if emulate is not None:
            from nvfp4.contest.emulate import attach

            attach(module)
        self.submission = function
        self._unchanged()
        return {}

    def _unchanged(self) -> None:
        changed = self.snapshot.changes()
        if changed:
            raise Rejected("cheat", "replaced " + ", ".join(changed[:6]))
        disturbed = self.clock.disturbances()
        if disturbed:
            raise Rejected("cheat", "; ".join(disturbed))

    def _make(self, case: Case, data: str, seed: int) -> Prepared:
        made = hard.make(self.task, case, data, seed, self.clock.device)
        found, outputs = inputs.tensors(self.task, made)
        return Prepared(made, found, outputs, [fingerprint(x) for x in found])

    def _poison(self, prepared: Prepared) -> None:
        for c in prepared.outputs:
            c.permute(2, 0, 1).view(torch.int16).fill_(_POISON)

    def _untouched(self, prepared: Prepared) -> None:
        if [fingerprint(x) for x in prepared.inputs] != prepared.hashes:
            raise Rejected("cheat", "modified its inputs")

    def _checked(self, result: object, prepared: Prepared) -> list[torch.Tensor]:
        """The tensors that a call returned, if they are what the task asks for."""
        grouped = self.task.op is Op.GROUP_GEMM
        wanted = prepared.outputs
        if grouped and isinstance(result, (list, tuple)):
            tensors = list(result)
        elif grouped:
            raise Rejected("type", f"returned {type(result).__name__} instead of a list of {len(wanted)} tensors")
        else:
            tensors = [result]
        if len(tensors) != len(wanted):
            raise Rejected("type", f"returned {len(tensors)} tensors instead of {len(wanted)}")
        for got, want in zip(tensors, wanted, strict=True):
            if type(got) is not torch.Tensor:
                raise Rejected("type", f"returned {type(got).__name__} instead of a torch.Tensor")
            for what in ("dtype", "shape", "device", "layout"):
                mine, theirs = getattr(got, what), getattr(want, what)
                if mine != theirs:
                    show = tuple if what == "shape" else str
                    raise Rejected("type", f"{what}: returned {show(mine)} instead of {show(theirs)}")
            if _strides(got) != _strides(want):
                self._notes.add(f"strides of the result are {tuple(got.stride())}, those of c {tuple(want.stride())}")
            if any(_overlap(got, x) for x in prepared.inputs):
                raise Rejected("cheat", "returned memory of an input")
        return tensors

    def _compare(self, captured: list[list[torch.Tensor]], final: list[list[torch.Tensor]], when: str) -> None:
        for number, (then, now) in enumerate(zip(captured, final, strict=True)):
            if [fingerprint(x) for x in then] != [fingerprint(x) for x in now]:
                raise Rejected("cheat", f"the result of call {number} was not finished {when}: it changed afterwards")

    def _calls(self, sets: list[Prepared]) -> list[Callable[[], object]]:
        return [functools.partial(self.submission, prepared.data) for prepared in sets]

    def _capture(self, sets: list[Prepared], *, probe: bool) -> tuple[clock.Sample, list[list[torch.Tensor]]]:
        """One sample; every result is checked, and compared with what it was when it was due."""
        due: list[list[torch.Tensor]] = []
        final: list[list[torch.Tensor]] = []

        def capture(number: int, result: object) -> None:
            tensors = self._checked(result, sets[number])
            final.append(tensors)
            due.append([x.clone() for x in tensors])

        taken = self.clock.sample(self._calls(sets), capture, probe=probe)
        self._unchanged()
        self.clock.synchronize()
        self._compare(due, final, "when it was returned" if probe else "when the clock was stopped")
        for i, mine in enumerate(final):
            for j, theirs in enumerate(final[:i]):
                if sets[i] is not sets[j] and any(_overlap(x, y) for x in mine for y in theirs):
                    raise Rejected("cheat", f"the results of calls {j} and {i} share memory")
        return taken, final

    def test(self, line: str, data: str, seed: int) -> Message:
        """One call on fresh inputs; earlier results must keep their values."""
        self.sets = []
        prepared = self._make(cases.parse_line(self.task, line), data, seed)
        self._poison(prepared)
        kept = [[fingerprint(x) for x in tensors] for tensors in self._earlier]
        _, final = self._capture([prepared], probe=True)
        self._untouched(prepared)
        for before, tensors in zip(kept, self._earlier, strict=True):
            if any(_overlap(x, y) for x in tensors for y in final[0]):
                raise Rejected("cheat", "returned memory of an earlier result, which the caller still holds")
            if before != [fingerprint(x) for x in tensors]:
                raise Rejected("cheat", "changed an earlier result")
        self._earlier = [*self._earlier[-1:], final[0]]
        self.results = final
        return self._digests()

    def prepare(self, line: str, seeds: list[int]) -> Message:
        """Draw the inputs of a benchmark, one set for each seed."""
        self._earlier, self.results, self.sets = [], [], []
        self.case = cases.parse_line(self.task, line)
        self.sets = [self._make(self.case, hard.OFFICIAL, seed) for seed in seeds]
        return {}

    def sample(self, refresh: list[list[int]], order: list[int], probe: bool) -> Message:
        """One sample.

        Args:
            refresh: (set, seed): sets that get new values in the same memory first.
            order: The set of each call.
            probe: See `clock.Clock.sample`.
        """
        self.results = []
        for index, seed in refresh:
            fresh = self._make(self.case, hard.OFFICIAL, seed)
            for old, new in zip(self.sets[index].inputs, fresh.inputs, strict=True):
                inputs.as_storage(old).copy_(inputs.as_storage(new))
            self.sets[index].hashes = fresh.hashes
        sets = [self.sets[index] for index in order]
        for prepared in self.sets:
            self._poison(prepared)
        taken, final = self._capture(sets, probe=probe)
        if probe:
            for prepared in self.sets:
                self._untouched(prepared)
        self.results = final
        message = self._digests()
        return {**message, "ns": taken.seconds * 1e9, "wall": taken.wall, "tail": taken.tail}

    def _digests(self) -> Message:
        digests = [[fingerprint(x) for x in tensors] for tensors in self.results]
        notes, self._notes = sorted(self._notes), set()
        return {"digests": digests, "notes": notes}

    def fetch(self, index: int) -> Message:
        """Write the results of call `index` to files."""
        names = []
        for number, tensor in enumerate(self.results[index]):
            path = self.scratch / f"result-{number}-{secrets.token_hex(8)}"
            path.write_bytes(tensor.detach().contiguous().cpu().numpy().tobytes())
            names.append(path.name)
        return {"files": names}

    def profile(self) -> Message:
        """A profile of one call on each prepared set, as a table."""
        cuda = self.clock.device.type == "cuda"
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
        self.submission(self.sets[0].data)
        self.clock.synchronize()
        with torch.profiler.profile(activities=kinds) as profiler:
            for prepared in self.sets:
                self.submission(prepared.data)
            self.clock.synchronize()
        table = profiler.key_averages().table(sort_by="cuda_time_total" if cuda else "cpu_time_total", row_limit=20)
        return {"report": base64.b64encode(table.encode()).decode()}


_COMMANDS = ("load", "test", "prepare", "sample", "fetch", "profile")


_MOST_TEXT = 4000
"""Characters of an exception that the evaluator is sent, and of each line of its traceback."""


def _said(error: object) -> str:
    """What an exception says, whatever its class makes of that."""
    try:
        return str(error)[:_MOST_TEXT]
    except BaseException as other:
        return f"(its message cannot be had: {type(other).__name__})"


def _failure(error: BaseException) -> Message:
    """What the evaluator is told about an exception, by what it says of the submission."""
    if isinstance(error, Rejected):
        return {"error": _said(error), "kind": error.kind}
    if isinstance(error, SystemExit):
        return {"error": f"ended the process: SystemExit({_said(error.code)})", "kind": "crash"}
    if isinstance(error, torch.OutOfMemoryError):
        return {"error": _said(error), "kind": "memory"}
    kind = "missing" if isinstance(error, ImportError) else "crash"
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)[-8:]
    except BaseException:
        lines = []
    trace = "".join(line[:_MOST_TEXT] for line in lines)
    return {"error": f"{type(error).__name__}: {_said(error)}", "kind": kind, "trace": trace}


def serve(incoming: int, outgoing: int) -> None:
    """Answer commands until the other end is gone."""
    # High and unannounced numbers: a submission that writes to the descriptors it knows of must not hit these.
    low = 200 + secrets.randbelow(300)
    source, target = (fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, low) for number in (incoming, outgoing))
    os.close(incoming)
    os.close(outgoing)
    key = os.read(source, 32)
    receiver, sender = Receiver(source, key), Sender(target, key)
    session: Session | None = None
    while True:
        try:
            message = receiver.receive()
        except Closed:
            return
        name = message.pop("command")
        try:
            if name == "start":
                session, reply = Session(message), Message()
            else:
                assert name in _COMMANDS
                assert session is not None
                reply = getattr(session, name)(**message)
        except BaseException as error:
            reply = _failure(error)
        sender.send(reply)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
