from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.house import small_repository
from tests.tool_svc_service.house import ToolHouse, tool_house


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return small_repository(tmp_path / "workspace")


@pytest.fixture
async def house(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ToolHouse]:
    async with tool_house(tmp_path, repository, monkeypatch) as started:
        yield started
