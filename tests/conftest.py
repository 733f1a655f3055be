"""What the whole suite shares: which tests need a GPU or minutes, and why they are skipped elsewhere."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes, and all sampled cases")
    parser.addoption("--device", action="store_true", help="record the silicon vectors anew on this GPU (tests/hw)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    no_gpu = pytest.mark.skip(reason="needs an NVIDIA GPU that torch can use")
    not_asked = pytest.mark.skip(reason="takes minutes: run with --slow")
    has_gpu = torch.cuda.is_available()
    seen: dict[object, int] = {}  # sampled cases of each test
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled and not config.getoption("--slow"):
            every = sampled.args[0]
            before = seen.get(item.function, 0)
            seen[item.function] = before + 1
            if before % every:
                item.add_marker(pytest.mark.skip(reason=f"one case in {every} runs: all of them with --slow"))
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(no_gpu)
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(not_asked)
