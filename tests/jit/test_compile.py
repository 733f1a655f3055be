"""NVRTC without a GPU: targets, logs, resources, errors."""

from __future__ import annotations

import os
import re

import pytest
import torch

from nvfp4 import jit
from nvfp4.errors import CompileError, InputError
from nvfp4.executors.launch import Kernel
from nvfp4.jit import source, toolkit
from nvfp4.jit.artifact import parse_resources

PROBE = Kernel("probe.cu", "probe_parameters", (("CONFIG_CAPACITY", 4),), "sm_90a")
PROBE_FILE = "kernels/probe.cu"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NVFP4_CACHE_DIR", str(tmp_path))


def test_cubin_is_an_elf_with_resources():
    artifact = jit.compile(PROBE, "cubin")
    assert artifact.code[:4] == b"\x7fELF"
    assert artifact.resources is not None
    assert 8 <= artifact.resources.registers <= 64
    assert artifact.resources.local_bytes == 0


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"])
def test_ptx_names_its_target_and_entry(arch):
    artifact = jit.compile(Kernel("probe.cu", "probe_parameters", (("CONFIG_CAPACITY", 4),), arch), "ptx")
    text = artifact.code.decode()
    assert f".target {arch}" in text
    assert ".visible .entry probe_parameters(" in text
    assert "\0" not in text
    assert artifact.resources is None


def test_constants_reach_the_code():
    text = jit.compile(PROBE, "ptx").code.decode()
    other = Kernel(PROBE.source, PROBE.entry, (("CONFIG_CAPACITY", 8),), PROBE.arch)
    assert "probe_parameters_param_6[32]" in text  # Array<const i64*> of 4
    assert "probe_parameters_param_6[64]" in jit.compile(other, "ptx").code.decode()


def test_line_information_is_an_option_and_has_no_path_of_this_machine():
    text = jit.compile(PROBE, "ptx", lineinfo=True).code.decode()
    assert set(re.findall(r'\.file\s+\d+ "(.*?)"', text)) <= {
        f"/nvfp4/csrc/{name}" for name in source.closure(PROBE_FILE)
    }
    assert '"/nvfp4/csrc/kernels/probe.cu"' in text
    assert os.getcwd() not in text
    assert ".loc" not in jit.compile(PROBE, "ptx", lineinfo=False).code.decode()


def test_compile_error_has_the_full_log():
    bad = Kernel(PROBE.source, PROBE.entry, (("CONFIG_CAPACITY", "no_such_name"),), PROBE.arch)
    with pytest.raises(CompileError) as caught:
        jit.compile(bad)
    assert 'identifier "no_such_name" is undefined' in caught.value.log
    assert "probe_parameters<CONFIG_CAPACITY=no_such_name>" in str(caught.value)


def test_unknown_architecture_is_a_compile_error():
    with pytest.raises(CompileError, match="gpu-architecture"):
        jit.compile(Kernel(PROBE.source, PROBE.entry, PROBE.constants, "sm_12"))


def test_missing_source_is_a_compile_error():
    with pytest.raises(CompileError, match=r"kernels/nothing\.cu"):
        jit.compile(Kernel("nothing.cu", "x", (), "sm_90a"))


def test_unknown_target():
    with pytest.raises(InputError, match="ptx or cubin"):
        jit.compile(PROBE, "sass")


def test_closure_lists_every_header_once(tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n  #  include "c.cuh"\n#include <cuda.h>\n')
    (tmp_path / "b.cuh").write_text('#include "c.cuh"\n')
    (tmp_path / "c.cuh").write_text('#pragma once\n#include "b.cuh"\n')
    assert list(source.closure("a.cu", tmp_path)) == ["a.cu", "b.cuh", "c.cuh"]
    (tmp_path / "c.cuh").write_text('#include "gone.cuh"\n')
    with pytest.raises(CompileError, match=r"gone\.cuh"):
        source.closure("a.cu", tmp_path)


def test_cuda_headers_are_found_and_usable():
    assert any((path / "cuda.h").is_file() for path in toolkit.include_directories())
    assert int(toolkit.header_version()) >= 13000


def test_headers_of_a_toolkit_and_of_older_wheels(tmp_path, monkeypatch):
    wheel = tmp_path / "site" / "nvidia" / "cuda_runtime" / "include"
    home = tmp_path / "toolkit" / "include"
    for directory in (wheel, home):
        directory.mkdir(parents=True)
        (directory / "cuda.h").write_text("#define CUDA_VERSION 12080\n")
    monkeypatch.setattr(toolkit, "_site_directories", lambda: [tmp_path / "site"])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    toolkit.include_directories.cache_clear()
    toolkit.header_version.cache_clear()
    try:
        assert toolkit.include_directories()[:2] == (wheel, home)
        assert toolkit.header_version() == "12080"
    finally:
        toolkit.include_directories.cache_clear()
        toolkit.header_version.cache_clear()


def test_resources_of_one_entry_among_several():
    log = """
ptxas info    : Compiling entry function 'other' for 'sm_90a'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compiling entry function 'mine' for 'sm_90a'
ptxas info    : Function properties for mine
    16 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 128 bytes smem, 352 bytes cmem[0]
"""
    mine = parse_resources(log, "mine")
    assert mine is not None
    assert (mine.registers, mine.shared_bytes, mine.stack_bytes) == (96, 128, 16)
    assert (mine.spill_store_bytes, mine.spill_load_bytes, mine.local_bytes) == (4, 12, 32)
    assert parse_resources(log, "absent") is None


def test_needs_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert jit.compile(PROBE).code
