"""The content-addressed cache: hits, misses, damage, and many processes at once."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from nvfp4 import jit
from nvfp4.executors.launch import Kernel
from nvfp4.jit import cache, compiler, source
from nvfp4.jit.artifact import Artifact, Resources

PROBE = Kernel("probe.cu", "probe_parameters", (("CONFIG_CAPACITY", 2),), "sm_80")


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("NVFP4_CACHE_DIR", str(tmp_path))
    return tmp_path


def entries(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_second_compilation_is_a_hit_and_equal(directory):
    first, second = jit.compile(PROBE), jit.compile(PROBE)
    assert (first.cached, second.cached) == (False, True)
    assert (first.code, first.log, first.resources, first.key) == (
        second.code,
        second.log,
        second.resources,
        second.key,
    )
    assert [path.name for path in entries(directory)] == [f"{first.key}.cubin"]


def test_ptx_and_cubin_are_separate_entries(directory):
    assert jit.compile(PROBE, "ptx").key != jit.compile(PROBE, "cubin").key
    assert len(entries(directory)) == 2


def test_cache_can_be_turned_off(directory, monkeypatch):
    monkeypatch.setenv("NVFP4_CACHE", "0")
    jit.compile(PROBE, "ptx")
    assert not jit.compile(PROBE, "ptx").cached
    assert not entries(directory)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "header", "foreign"])
def test_a_damaged_entry_is_a_miss_and_is_replaced(directory, damage):
    good = jit.compile(PROBE, "ptx")
    (path,) = entries(directory)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "truncated": data[:middle],
            "empty": b"",
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "header": data.replace(b"artifact 1", b"artifact 0", 1),
            "foreign": b"not a cache entry\n" * 10,
        }[damage]
    )
    again = jit.compile(PROBE, "ptx")
    assert not again.cached
    assert again.code == good.code
    assert path.read_bytes() == data
    assert jit.compile(PROBE, "ptx").cached


def test_code_may_hold_any_bytes(tmp_path):
    artifact = Artifact(
        "cubin", bytes(range(256)) * 3 + b"\n\0", "a log\nof lines", Resources(1, 2, 3, 4, 5), "ab" * 32
    )
    cache.store(tmp_path, artifact)
    loaded = cache.load(tmp_path, artifact.key, "cubin")
    assert loaded is not None
    assert (loaded.code, loaded.log, loaded.resources) == (artifact.code, artifact.log, artifact.resources)
    assert cache.load(tmp_path, artifact.key, "ptx") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("NVFP4_CACHE_DIR", str(blocked))
    assert jit.compile(PROBE, "ptx").code


def test_the_key_depends_on_everything_that_decides_the_code(monkeypatch):
    texts = source.closure("kernels/probe.cu")

    def key(kernel=PROBE, texts=texts, target="ptx", lineinfo=False):
        return compiler._key(kernel, compiler._flags(kernel, target, lineinfo), texts)

    header = next(name for name in texts if name.endswith(".cuh"))
    keys = [
        key(),
        key(target="cubin"),
        key(lineinfo=True),
        key(texts={**texts, header: texts[header] + " "}),
        key(Kernel(PROBE.source, "probe_increment", PROBE.constants, PROBE.arch)),
        key(Kernel(PROBE.source, PROBE.entry, (("CONFIG_CAPACITY", 3),), PROBE.arch)),
        key(Kernel(PROBE.source, PROBE.entry, PROBE.constants, "sm_90a")),
    ]
    monkeypatch.setattr(compiler.toolkit, "nvrtc_version", lambda: "99.9")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    monkeypatch.undo()
    assert key() == keys[0]


def _compile_many(directory: str, barrier, results) -> None:
    os.environ["NVFP4_CACHE_DIR"] = directory
    kernels = [Kernel(PROBE.source, PROBE.entry, (("CONFIG_CAPACITY", n),), PROBE.arch) for n in (1, 2, 3)]
    barrier.wait()
    codes = [jit.compile(kernel, "ptx").code for kernel in kernels for _ in range(2)]
    results.put([len(codes), *(hash_of(code) for code in codes)])


def hash_of(code: bytes) -> str:
    import hashlib

    return hashlib.sha256(code).hexdigest()


def test_eight_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_compile_many, args=(str(tmp_path), barrier, results)) for _ in range(8)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0][1:])) == 3
    found = entries(tmp_path)
    assert len(found) == 3  # no temporary file is left
    for path in found:
        assert cache.load(tmp_path, path.stem, "ptx") is not None
