"""The cache of compiled kernels: content-addressed files that many processes share.

An entry is one file, ``<cache_dir>/<key[:2]>/<key>.<target>``::

    nvfp4-artifact 1\n
    <SHA-256 of the rest, hexadecimal>\n
    <JSON: log, resources>\n
    <code>

It is written to a temporary file beside it and renamed into place, so a reader sees all of an entry or nothing. What
does not hold together (truncated, altered, of another version) counts as a miss and is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from nvfp4.jit.artifact import Artifact, Resources

_MAGIC = b"nvfp4-artifact 1"


def _path(directory: Path, key: str, target: str) -> Path:
    return directory / key[:2] / f"{key}.{target}"


def _parse(data: bytes, key: str, target: str) -> Artifact | None:
    magic, _, rest = data.partition(b"\n")
    digest, _, body = rest.partition(b"\n")
    if magic != _MAGIC or hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    header, _, code = body.partition(b"\n")
    fields = json.loads(header)
    resources = Resources(**fields["resources"]) if fields["resources"] else None
    return Artifact(target, code, fields["log"], resources, key, cached=True)


def load(directory: Path, key: str, target: str) -> Artifact | None:
    """The entry of `key`, or None when there is none that is intact."""
    try:
        data = _path(directory, key, target).read_bytes()
    except OSError:
        return None
    return _parse(data, key, target)


def store(directory: Path, artifact: Artifact) -> None:
    """Publish `artifact`. A cache that cannot be written (full, read-only) is no error: the code is at hand."""
    resources = asdict(artifact.resources) if artifact.resources else None
    header = json.dumps({"log": artifact.log, "resources": resources})
    body = header.encode() + b"\n" + artifact.code
    data = b"\n".join((_MAGIC, hashlib.sha256(body).hexdigest().encode(), body))
    path = _path(directory, artifact.key, artifact.target)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{artifact.key[:8]}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
