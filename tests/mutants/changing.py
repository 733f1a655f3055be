"""Kernels with a line of their sources changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from nvfp4.emulator import Checks
from nvfp4.executors.launch import Launch
from nvfp4.jit import source

STRICT = Checks.all().but(strict=True)
WRONG = "wrong"  # the result is wrong, and the checker sees it


@dataclass(frozen=True)
class Change:
    """`old`, which stands once in a header or kernel, becomes `new`; what is found then must match `finding`."""

    name: str
    file: str
    old: str
    new: str
    finding: str


def make(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change what is compiled from now on."""
    read = source.read
    assert read(change.file).count(change.old) == 1, f"{change.name}: the line is not there, or there twice"

    def changed(path: str, *rest: object) -> str:
        text = read(path, *rest)  # type: ignore[arg-type]
        return text.replace(change.old, change.new) if path == change.file else text

    monkeypatch.setattr(source, "read", changed)


def marked(launches: tuple[Launch, ...], number: int) -> tuple[Launch, ...]:
    """The launches with kernels of their own: compiled ones are kept, and another constant makes another kernel."""
    kernels = [replace(x.kernel, constants=(*x.kernel.constants, ("MUTANT", number))) for x in launches]
    return tuple(replace(x, kernel=kernel) for x, kernel in zip(launches, kernels, strict=True))
