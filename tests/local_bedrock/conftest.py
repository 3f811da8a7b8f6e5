"""A scripted endpoint on a free port and a real boto3 client that talks to it from a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from local_bedrock.server import RunningEndpoint, start
from local_bedrock.settings import LocalBedrockSettings
from tests.local_bedrock.runtime_client import runtime_client

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

T = TypeVar("T")


@pytest.fixture
async def endpoint() -> AsyncIterator[RunningEndpoint]:
    async with await start(LocalBedrockSettings(port=0, backend="script", cache_min_tokens=16)) as running:
        yield running


@pytest.fixture
def client(endpoint: RunningEndpoint) -> Iterator[BedrockRuntimeClient]:
    made = runtime_client(endpoint.url)
    yield made
    made.close()


class Caller:
    """Calls boto3 in a thread, so that the endpoint on the test's loop can answer."""

    def __init__(self, client: BedrockRuntimeClient) -> None:
        self._client = client

    async def __call__(self, operation: Callable[..., T], **arguments: Any) -> T:
        return await asyncio.to_thread(lambda: operation(**arguments))

    async def converse(self, text: str = "hello", **arguments: Any) -> Any:
        return await self(self._client.converse, **_request(text, arguments))

    async def events(self, text: str = "hello", **arguments: Any) -> list[dict[str, Any]]:
        """All events of a ConverseStream call; what it raises comes through."""

        def run() -> list[Any]:
            return list(self._client.converse_stream(**_request(text, arguments))["stream"])

        return await asyncio.to_thread(run)


@pytest.fixture
def call(client: BedrockRuntimeClient) -> Caller:
    return Caller(client)


def _request(text: str, arguments: dict[str, Any]) -> dict[str, Any]:
    user = {"messages": [{"role": "user", "content": [{"text": text}]}]}
    return {"modelId": "amazon.nova-lite-v1:0", **user, **arguments}
