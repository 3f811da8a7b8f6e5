"""A scripted endpoint per test, and a runner over it that leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from llm.runner import LlmRunner
from llm.templates import Template
from local_bedrock.server import RunningEndpoint, start
from local_bedrock.settings import LocalBedrockSettings
from tests.llm import support


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningEndpoint]:
    async with await start(LocalBedrockSettings(port=0, backend="script")) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", running.url)
        yield running


@pytest.fixture
def meter() -> support.ArithmeticMeter:
    return support.ArithmeticMeter()


@pytest.fixture
async def make_runner(endpoint: RunningEndpoint) -> AsyncIterator[Callable[..., LlmRunner]]:
    async with AsyncExitStack() as stack:

        def make(*arguments: Any, **named: Any) -> LlmRunner:
            runner = support.make_runner(*arguments, **named)
            stack.push_async_callback(runner.close)
            return runner

        yield make


@pytest.fixture
def runner(make_runner: Callable[..., LlmRunner], meter: support.ArithmeticMeter) -> LlmRunner:
    return make_runner(meter)


@pytest.fixture
def free_text(tmp_path: Path) -> Template:
    return support.template(tmp_path)


@pytest.fixture
def structured(tmp_path: Path) -> Template:
    return support.template(tmp_path, support.SUMMARY_SCHEMA)
