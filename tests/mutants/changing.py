"""Kernels with a line of their sources changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvfp4.executors.launch import Launch
from nvfp4.jit import source


def change(monkeypatch: pytest.MonkeyPatch, name: str, file: str, old: str, new: str) -> None:
    """`old`, which stands once in a header or kernel, is `new` in all that is compiled from now on. `name` is shown."""
    read = source.read
    assert read(file).count(old) == 1, f"{name}: the line is not there, or there twice"

    def changed(path: str, *rest: object) -> str:
        text = read(path, *rest)  # type: ignore[arg-type]
        return text.replace(old, new) if path == file else text

    monkeypatch.setattr(source, "read", changed)


def marked(launches: tuple[Launch, ...], number: int) -> tuple[Launch, ...]:
    """The launches with kernels of their own: compiled ones are kept, and another constant makes another kernel."""
    kernels = [replace(x.kernel, constants=(*x.kernel.constants, ("MUTANT", number))) for x in launches]
    return tuple(replace(x, kernel=kernel) for x, kernel in zip(launches, kernels, strict=True))
