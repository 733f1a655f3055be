"""What a record says about the machine: device, clocks, library versions, commit. Reads, never sets, anything."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from nvfp4.device import capability

_QUERY = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
    "throttle": "clocks_event_reasons.active",
}
_PACKAGES = ("nvfp4", "torch", "triton", "numpy", "cuda-bindings", "nvidia-cublas", "humming-kernels")


def _smi(fields: list[str], index: int) -> dict[str, str]:
    """`nvidia-smi` answers by field; without the tool or the field, nothing."""
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in answer.split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def clocks(device: torch.device | str = "cuda") -> dict[str, Any]:
    """Clocks, power and temperature as they are now; empty where the driver does not tell."""
    index = torch.device(device).index or 0
    fields = list(_QUERY.values())
    answer = _smi(fields, index)
    if not answer:  # one field that a driver does not know makes it refuse all of them
        answer = {field: value for field in fields for field, value in _smi([field], index).items()}
    reading: dict[str, Any] = {}
    for name, query in _QUERY.items():
        value = answer.get(query)
        if value is None or value.startswith("["):  # "[N/A]", "[Not Supported]"
            continue
        try:
            reading[name] = float(value)
        except ValueError:
            reading[name] = value
    return reading


def describe_device(device: torch.device | str) -> dict[str, Any]:
    """Name, architecture, multiprocessors, memory and driver of a device."""
    what = capability(device)
    found: dict[str, Any] = {"name": what.name, "arch": what.arch, "sms": what.sms}
    if what.arch != "cpu":
        properties = torch.cuda.get_device_properties(device)
        found["memory_bytes"] = int(properties.total_memory)
        found["l2_bytes"] = int(properties.L2_cache_size)
        driver = _smi(["driver_version"], torch.device(device).index or 0).get("driver_version")
        if driver:
            found["driver"] = driver
    return found


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda or "none")}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found.setdefault("torch", torch.__version__)
    return found


def commit() -> str:
    """The commit of the checkout that this package runs from, ``+changes`` if it differs from it; else ``unknown``."""

    def git(*arguments: str) -> str:
        here = Path(__file__).resolve().parent
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        name = git("rev-parse", "HEAD")
        return name + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
