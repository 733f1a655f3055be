"""Every error that nvfp4 raises on purpose. Each says what failed, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NVFP4Error(Exception):
    """Base class of the errors of this package."""

    def __reduce__(self) -> tuple[Callable[..., NVFP4Error], tuple[Any, ...]]:
        # An exception is pickled as its class called with its message, which is not what the classes below take.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[NVFP4Error], arguments: tuple[Any, ...], state: dict[str, Any]) -> NVFP4Error:
    """An error as it was in another process."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class InputError(NVFP4Error, ValueError):
    """An argument of a call is wrong. Raised before anything is launched or written.

    Args:
        op: The operation or constructor that was called, such as ``"gemm"``.
        argument: The name of the offending argument, such as ``"b.scales"``.
        expected: What would have been accepted.
        got: What was passed.
        remedy: What the caller can do.
    """

    def __init__(self, op: str, argument: str, expected: object, got: object, remedy: str) -> None:
        self.op = op
        self.argument = argument
        self.expected = str(expected)
        self.got = str(got)
        self.remedy = remedy
        super().__init__(f"{op}: argument `{argument}`: expected {self.expected}, got {self.got}. {remedy}")


@dataclass(frozen=True)
class Refusal:
    """Why one backend does not run one problem."""

    backend: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.backend}: " + "; ".join(self.reasons)


class UnsupportedError(NVFP4Error, NotImplementedError):
    """No backend (or not the one asked for) runs a problem on a device; `refusals` holds every reason."""

    def __init__(self, what: str, refusals: tuple[Refusal, ...]) -> None:
        self.refusals = refusals
        lines = "".join(f"\n  - {refusal}" for refusal in refusals)
        super().__init__(f"no backend runs {what}:{lines}")


class CompileError(NVFP4Error, RuntimeError):
    """NVRTC rejected a kernel; `log` is its full output."""

    def __init__(self, what: str, log: str) -> None:
        self.log = log
        super().__init__(f"{what} does not compile:\n{log}")


class LaunchError(NVFP4Error, RuntimeError):
    """The driver or the emulator rejected a launch, or a kernel failed while it ran."""


class MissingDependencyError(NVFP4Error, ImportError):
    """An optional package is needed; the message names the command that installs it."""
