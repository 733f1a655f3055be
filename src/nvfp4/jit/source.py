"""Kernel sources: where they are, and everything of ours that one of them includes.

Includes of our own headers are quoted and relative to ``csrc`` (``#include "ptx/mma.cuh"``); they are handed to the
compiler in memory, so that no path of this machine reaches the compiled code and the text is all there is to hash.
Headers of the CUDA toolkit are included with angle brackets, and belong to the compiler's version.
"""

from __future__ import annotations

import re
from pathlib import Path

from nvfp4.errors import CompileError

CSRC = Path(__file__).resolve().parent.parent / "csrc"

_QUOTED = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


def read(name: str, root: Path = CSRC) -> str:
    """The text of the file `name` below `root`.

    Raises:
        CompileError: There is no such file.
    """
    try:
        return (root / name).read_text(encoding="utf-8")
    except OSError as error:
        raise CompileError(name, f"cannot read {name} below csrc: {error.strerror}") from None


def closure(name: str, root: Path = CSRC) -> dict[str, str]:
    """The file `name` and all the headers of ours that it includes, directly or not.

    Args:
        name: Path relative to `root`, such as ``"kernels/sm80_gemm.cu"``.
        root: The directory that quoted includes are relative to.

    Returns:
        Texts by name: `name` first, then each header in the order in which it is first met. An include that the
        preprocessor would skip is listed all the same.

    Raises:
        CompileError: A file is missing.
    """
    texts: dict[str, str] = {}
    pending = [name]
    while pending:
        current = pending.pop(0)
        if current in texts:
            continue
        texts[current] = read(current, root)
        pending.extend(_QUOTED.findall(texts[current]))
    return texts
