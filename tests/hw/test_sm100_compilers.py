"""Our Blackwell GEMM and Triton's give the same bits for the same tensors (benchmarks/blackwell_compilers.py)."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton", reason="needs the extra nvfp4[triton]")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "blackwell_compilers.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("blackwell_compilers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("specialize", [False, True])
def test_the_same_bits_as_triton(script: ModuleType, specialize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PROBLEM", replace(script.PROBLEM, m=128, n=256, k=768))
    for data in ("integers", "gaussian"):
        theirs = script.tritons(data, specialize=specialize)
        for name in ("ours, Triton's tile", "ours, staged results", "ours, pairs with 64 rows"):
            found = script.ours(script.OURS[name], data)
            assert torch.equal(found.out.view(torch.int32), theirs.out.view(torch.int32)), (name, data)
            assert found.report.counts["mma_flops"] == theirs.report.counts["mma_flops"], name
