"""The worker's process as the evaluator sees it: commands with time limits, a canary for the result channel."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from nvfp4 import config
from nvfp4.contest.channel import ChannelError, Closed, Message, Receiver, Sender, Timeout
from nvfp4.errors import NVFP4Error

_START_SECONDS = 180.0
"""What a worker may take before it has anything to do with the submission: importing torch on a busy machine."""


class Failure(NVFP4Error):
    """A submission failed; `kind` says how.

    Attributes:
        kind: ``"crash" | "timeout" | "cheat" | "type" | "missing" | "memory" | "wrong"``.
        trace: The traceback in the submission, if there is one.
    """

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        self.kind, self.trace = kind, _printable(trace)
        super().__init__(_printable(message))


def _printable(text: str) -> str:
    """`text` without what terminals act on and no encoding has; line breaks and tabs stay."""
    return "".join(x if x.isprintable() or x in "\n\t" else ascii(x)[1:-1] for x in text)


def _limit_text(text: str, most: int = 2000) -> str:
    return text if len(text) <= most else text[: most // 2] + " ... " + text[-most // 2 :]


def compile_step(path: Path, limit: float) -> None:
    """Run the file once as a program, as the contest does before it evaluates.

    Raises:
        Failure: It fails or does not end in time.
    """
    environment = config.child_environment({"POPCORN_FD": None, "POPCORN_SEED": None})
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            cwd=path.parent, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failure("timeout", f"did not end within {limit:.0f} s when run as a program") from None
        finally:
            _kill(process)
        log.seek(0)
        text = log.read()[-4000:].decode(errors="replace").strip()
    if status:
        last = text.splitlines()[-1] if text else f"exit status {status}"
        missing = "ModuleNotFoundError" in last or "ImportError" in last
        raise Failure("missing" if missing else "crash", f"fails when run as a program: {last}", text)


def _kill(process: subprocess.Popen[Any]) -> None:
    """End the process and everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Worker:
    """A process that holds one submission; a context manager that ends it.

    Args:
        task: Name of the task.
        device: ``"cpu"`` or ``"cuda"``.
        limit: Seconds that a command may take.
        threads: Threads of torch in the process; 0 for its own choice.
    """

    def __init__(self, task: str, device: str, *, limit: float, threads: int = 0) -> None:
        self.limit = limit
        self.directory = tempfile.TemporaryDirectory(prefix="nvfp4-contest-")
        self.scratch = Path(self.directory.name)
        self._log = (self.scratch / "output").open("w+b")
        key = secrets.token_bytes(32)
        to_worker, commands = os.pipe()
        answers, from_worker = os.pipe()
        self._canary, decoy = os.pipe()
        os.set_blocking(self._canary, False)
        os.write(commands, key)
        self._commands, self._answers = commands, answers
        self._sender, self._receiver = Sender(commands, key), Receiver(answers, key)
        environment = config.child_environment({"POPCORN_FD": str(decoy), "POPCORN_SEED": None, "PYTHONSAFEPATH": "1"})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nvfp4.contest.worker", str(to_worker), str(from_worker)],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=environment, cwd=self.scratch,
            pass_fds=(to_worker, from_worker, decoy), start_new_session=True,
        )  # fmt: skip
        for number in (to_worker, from_worker, decoy):
            os.close(number)
        self._start = {"task": task, "device": device, "scratch": str(self.scratch), "threads": threads}

    def __enter__(self) -> Worker:
        self.command("start", **self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; safe to call again."""
        _kill(self._process)
        self._log.close()
        for number in (self._commands, self._answers, self._canary):
            with contextlib.suppress(OSError):
                os.close(number)
        self.directory.cleanup()

    def command(self, name: str, **arguments: Any) -> Message:
        """Let the worker do something.

        Raises:
            Failure: It did not, or the submission did what it may not.
        """
        try:
            self._sender.send({"command": name, **arguments})
            answer = self._receiver.receive(_START_SECONDS if name == "start" else self.limit)
        except Timeout:
            raise Failure("timeout", f"did not come back within {self.limit:.0f} s") from None
        except Closed:
            self._inspect()
            raise Failure("crash", f"ended the process ({self._status()})", self.output()) from None
        except ChannelError as error:
            raise Failure("cheat", f"wrote to the evaluator's own channel: {error}") from None
        self._inspect()
        if "error" in answer:
            raise Failure(answer["kind"], _limit_text(answer["error"]), answer.get("trace", ""))
        return answer

    def _inspect(self) -> None:
        try:
            written = os.read(self._canary, 4096)
        except BlockingIOError:
            return
        if written:
            raise Failure("cheat", f"wrote to the result channel POPCORN_FD: {written[:80]!r}")

    def _status(self) -> str:
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "still running, but its channel is closed"
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def output(self) -> str:
        """The end of what the submission printed."""
        self._log.flush()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4000))
        return self._log.read().decode(errors="replace").strip()
