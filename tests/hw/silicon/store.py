"""The recordings: one compressed file a class, with what was recorded where, when and from which text."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from .program import Array, Program

VECTORS = Path(__file__).parent / "vectors"


def path_of(klass: str) -> Path:
    """The file of a class."""
    return VECTORS / (klass.replace(",", "").replace(" ", "-").replace(".", "-") + ".npz.xz")


def save(klass: str, results: dict[str, dict[str, Array]], digests: dict[str, str], provenance: dict[str, Any]) -> Path:
    """Write the outputs of all programs of a class."""
    arrays: dict[str, Array] = {}
    for name, outputs in results.items():
        for output, array in outputs.items():
            arrays[f"{name}|{output}"] = array
    meta = json.dumps({"provenance": provenance, "digests": digests}, sort_keys=True)
    arrays["meta"] = np.frombuffer(meta.encode(), np.uint8)
    raw = io.BytesIO()
    np.savez(raw, **arrays)
    VECTORS.mkdir(exist_ok=True)
    path = path_of(klass)
    path.write_bytes(lzma.compress(raw.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return path


def load(klass: str) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """(outputs by program and name, {"provenance", "digests"}) of a class.

    Raises:
        FileNotFoundError: Nothing was recorded for it.
    """
    raw = io.BytesIO(lzma.decompress(path_of(klass).read_bytes()))
    results: dict[str, dict[str, Array]] = {}
    with np.load(raw, allow_pickle=False) as found:
        meta = json.loads(bytes(found["meta"]).decode())
        for key in found.files:
            if key != "meta":
                name, _, output = key.rpartition("|")
                results.setdefault(name, {})[output] = found[key]
    return results, meta


def recorded(program: Program) -> dict[str, Array] | None:
    """What a GPU answered to `program`; None when nothing was recorded, or what was recorded was another program."""
    try:
        results, meta = load(program.klass)
    except FileNotFoundError:
        return None
    if meta["digests"].get(program.name) != program.digest():
        return None
    return results[program.name]
