"""Which executor runs what, and that modules import without a driver."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nvfp4 import executors
from nvfp4.errors import InputError, MissingDependencyError


def test_by_device(monkeypatch):
    monkeypatch.delenv("NVFP4_EXECUTOR", raising=False)
    assert executors.choose("cuda:3").name == "driver"
    assert executors.choose(torch.device("cpu")).name == "emulated"
    with pytest.raises(InputError, match="cuda or cpu"):
        executors.choose("meta")


def test_an_override_that_cannot_work_is_refused(monkeypatch):
    monkeypatch.setenv("NVFP4_EXECUTOR", "emulated")
    assert executors.choose("cpu").name == "emulated"
    with pytest.raises(InputError, match="NVFP4_EXECUTOR"):
        executors.choose("cuda")
    monkeypatch.setenv("NVFP4_EXECUTOR", "driver")
    with pytest.raises(InputError, match="NVFP4_EXECUTOR"):
        executors.choose("cpu")


def test_importing_the_driver_executor_loads_no_driver():
    if not sys.platform.startswith("linux") or torch.cuda.is_available():
        pytest.skip("looks for the driver among this process's mappings, and torch may have loaded it")
    code = (
        "import nvfp4.executors.driver, nvfp4.executors.program, nvfp4.jit\n"
        "assert not any('libcuda.so' in line for line in open('/proc/self/maps'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_driver_the_message_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    from nvfp4.executors import libcuda

    with pytest.raises(MissingDependencyError, match="install an NVIDIA driver"):
        libcuda.library()
