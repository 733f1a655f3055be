"""Both ways into an operation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvfp4.ops import _dispatch


@pytest.fixture(params=["direct", "dispatcher"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The direct way and the one through torch's dispatcher, which have to agree in everything."""
    _dispatch.clear()
    if request.param == "dispatcher":
        monkeypatch.setattr(_dispatch, "direct", lambda: False)
    yield request.param
    _dispatch.clear()
