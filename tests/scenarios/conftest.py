"""What scenarios share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.scripts import script
from tests.support.house import TestHouse, house

OpenHouse = Callable[..., AbstractAsyncContextManager[TestHouse]]


@pytest.fixture
def open_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenHouse:
    """Opens a house whose models follow the given rules; options are those of `tests.support.house.house`."""

    def opened(*rules: str, **options: Any) -> AbstractAsyncContextManager[TestHouse]:
        return house(tmp_path, monkeypatch, script(*rules), **options)

    return opened
