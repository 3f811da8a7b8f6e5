"""What the model gateway adds to raw boto3, and how fast it lets go: `python -m bench.model [--quick] [--json]`.

The scripted endpoint runs in a process of its own, so CPU figures are the client's alone. "raw" is boto3's converse_stream read in
as many threads as there are streams, "raw waking loop" the same with a bare wake of the event loop per event; "gateway" is a whole
LLM instance: template, reservation (arithmetic, no service), stream, text handed to the host on the event loop, settlement. "fast"
streams send as much as they can, "paced" ones 20 pieces a second each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import uvloop
from botocore.config import Config

from llm.bedrock import BedrockClient
from llm.catalogue import Catalogue, Model
from llm.conversation import Conversation
from llm.gateway import Gateway
from llm.instance import Task, ToolOutcome, ToolUse
from llm.loop import Parts
from llm.metering import Prices, Reservation
from llm.notices import load_notices
from llm.runner import LlmRunner
from llm.settings import LlmSettings
from llm.templates import Template
from svc_common.times import MICROS, now
from svc_common.tokens import TokenUsage

MODEL = "amazon.nova-lite-v1:0"
STREAMS = 50
CHUNK_CHARS = 5
PROMPTS = Path(__file__).resolve().parent.parent / "doc" / "llm" / "prompts"
SCRIPT = """
rules:
  - when: {text: "silent"}
    reply: {text: late, first_token_s: 600}
  - when: {text: "slow"}
    reply: {text: "word ", endless: true, chunk_chars: CHUNK_CHARS, chunk_s: 0.02}
  - when: {text: "paced"}
    reply: {text: "word ", endless: true, chunk_chars: CHUNK_CHARS, chunk_s: 0.05}
  - reply: {text: "word ", endless: true, chunk_chars: CHUNK_CHARS}
"""


class FreeMeter:
    """Lets everything through at once."""

    async def reserve(self, reservation: Reservation) -> int:
        return 0

    async def settle(self, charge_id: str, usage: TokenUsage | None) -> int:
        return 0

    async def abandon(self, charge_id: str) -> None: ...

    async def renew(self, charge_id: str, lease: float) -> None: ...

    async def prices(self, model_id: str) -> Prices:
        return Prices(0, 0)


@dataclass
class CountingHost:
    """Counts pieces of text, and calls `on_piece` for each."""

    on_piece: Callable[[], None] = lambda: None
    pieces: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_text(self, text: str) -> None:
        self.heard.set()
        for _ in range(len(text) // CHUNK_CHARS):  # those that have come by now come together
            self.pieces += 1
            self.on_piece()

    async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        return []

    async def on_restart(self) -> None: ...

    async def on_turn(self, conversation: Conversation) -> None: ...

    async def on_warning(self, message: str) -> None: ...


@contextmanager
def endpoint() -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as script:
        script.write(SCRIPT.replace("CHUNK_CHARS", str(CHUNK_CHARS)))
        script.flush()
        command = [sys.executable, "-m", "local_bedrock", "--port", "0", "--backend", "script", "--script", script.name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            match = re.search(r"http://\S+", process.stdout.readline())
            assert match, "the endpoint did not start"
            yield match[0]
        finally:
            process.terminate()
            process.wait()


def running_calls(url: str) -> int:
    with urllib.request.urlopen(f"{url}/_local/calls", timeout=5) as response:
        return int(json.load(response)["running"])


async def wait_for_calls(url: str, count: int) -> float:
    """Waits until so many calls run at the endpoint; returns when that was first seen."""
    while await asyncio.to_thread(running_calls, url) != count:  # noqa: ASYNC110  # another process knows it
        await asyncio.sleep(0.001)
    return time.perf_counter()


def make_session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="ANY", aws_secret_access_key="any", region_name="us-east-1")


def make_runner(session: boto3.Session | None = None) -> LlmRunner:
    settings = LlmSettings(concurrent_calls=STREAMS, concurrent_calls_per_model=STREAMS, conclusion_seconds_min=0.0)
    known = Catalogue({MODEL: Model(id=MODEL, context_window=300_000, max_output=100_000)}, {"fast": [MODEL]})
    gateway = Gateway(settings, BedrockClient(settings, session or make_session()), FreeMeter())
    return LlmRunner(Parts(settings, known, load_notices(PROMPTS), gateway), None)


def make_task(query: str, chunks: int, seconds: float = 600.0, name: str = "bench") -> Task:
    template = Template("bench", "1", "You help.", "{{query}}", None, frozenset({"query"}), "0" * 64)
    return Task(
        instance_id=name,
        request_id="bench",
        root_id="",
        budget_id="bench",
        role="fast",
        template=template,
        values={"query": query},
        tools=(),
        deadline=now() + int(seconds * MICROS),
        max_rounds=0,
        # A token of the endpoint's is four bytes, a chunk five.
        max_output_tokens=chunks * CHUNK_CHARS // 4,
    )


def raw_read(client: Any, query: str, chunks: int, wake: Callable[[], object] = lambda: None) -> int:
    response = client.converse_stream(
        modelId=MODEL,
        system=[{"text": "You help."}],
        messages=[{"role": "user", "content": [{"text": query}]}],
        inferenceConfig={"maxTokens": chunks * CHUNK_CHARS // 4, "temperature": 0.0},
    )
    read = 0
    for event in response["stream"]:
        read += "contentBlockDelta" in event
        wake()
    return read


@dataclass
class Cost:
    """CPU and wall time per chunk in microseconds."""

    cpu: float
    wall: float


async def raw_cost(query: str, streams: int, chunks: int, *, wakes_loop: bool = False) -> Cost:
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=streams)
    client = make_session().client("bedrock-runtime", config=config)
    loop = asyncio.get_running_loop()
    wake = partial(loop.call_soon_threadsafe, int) if wakes_loop else int
    with ThreadPoolExecutor(streams) as threads:
        await asyncio.gather(*(loop.run_in_executor(threads, raw_read, client, "warm", 10) for _ in range(streams)))
        cpu, wall = time.process_time(), time.perf_counter()
        read = await asyncio.gather(
            *(loop.run_in_executor(threads, raw_read, client, query, chunks, wake) for _ in range(streams))
        )
        cost = per_chunk(cpu, wall, sum(read))
    client.close()
    return cost


async def gateway_cost(query: str, streams: int, chunks: int) -> Cost:
    runner = make_runner()
    await asyncio.gather(*(runner.run(make_task("warm", 10), CountingHost()) for _ in range(streams)))
    hosts = [CountingHost() for _ in range(streams)]
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(runner.run(make_task(query, chunks), host) for host in hosts))
    cost = per_chunk(cpu, wall, sum(host.pieces for host in hosts))
    await runner.close()
    return cost


def per_chunk(cpu: float, wall: float, chunks: int) -> Cost:
    return Cost((time.process_time() - cpu) / chunks * 1e6, (time.perf_counter() - wall) / chunks * 1e6)


class StampedStream:
    """boto3's stream, which notes when its reader gets each piece of text."""

    def __init__(self, stream: Any, times: deque[float]) -> None:
        self._stream = stream
        self._times = times

    def __iter__(self) -> Iterator[Any]:
        for event in self._stream:
            if "contentBlockDelta" in event:
                self._times.append(time.perf_counter())
            yield event

    def close(self) -> None:
        self._stream.close()


class HandOver:
    """Seconds from boto3's reader having a piece of text to the host having it, by stamps on both sides of the gateway."""

    def __init__(self, session: boto3.Session) -> None:
        self.delays: list[float] = []
        self._read: defaultdict[str, deque[float]] = defaultdict(deque)
        session.events.register("before-parameter-build.bedrock-runtime.ConverseStream", self._sent)
        session.events.register("after-call.bedrock-runtime.ConverseStream", self._answered)

    def heard(self, job_id: str) -> None:
        self.delays.append(time.perf_counter() - self._read[job_id].popleft())

    def _sent(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["job_id"] = params["requestMetadata"]["job_id"]

    def _answered(self, parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        parsed["stream"] = StampedStream(parsed["stream"], self._read[context["job_id"]])


async def hand_over(streams: int, chunks: int) -> list[float]:
    """Delays of all chunks, streams paced at 20 chunks a second."""
    session = make_session()
    watch = HandOver(session)
    runner = make_runner(session)
    names = [f"bench-{number}" for number in range(streams)]
    await asyncio.gather(
        *(
            runner.run(make_task("paced", chunks, name=name), CountingHost(on_piece=partial(watch.heard, name)))
            for name in names
        )
    )
    await runner.close()
    return watch.delays


async def abort(url: str, query: str, streams: int, *, by_deadline: bool) -> float:
    """Seconds from cancelling (or the deadline of) so many running calls to the endpoint having seen all connections close."""
    runner = make_runner()
    hosts = [CountingHost() for _ in range(streams)]
    seconds = 4.0 if by_deadline else 600.0
    tasks = [make_task(query, 100_000, seconds) for _ in hosts]
    runs = [asyncio.create_task(runner.run(task, host)) for task, host in zip(tasks, hosts, strict=True)]
    await wait_for_calls(url, streams)
    if query == "slow":
        await asyncio.gather(*(host.heard.wait() for host in hosts))
    if by_deadline:
        # What an instance aims at lies before its deadline: the margin is there for what is measured here.
        aim = (max(task.deadline for task in tasks) - now()) / MICROS - LlmSettings().return_margin_seconds
        start = time.perf_counter() + aim
        await asyncio.gather(*runs)
    else:
        start = time.perf_counter()
        for run in runs:
            run.cancel()
    closed = await wait_for_calls(url, 0)
    await asyncio.gather(*runs, return_exceptions=True)
    await runner.close()
    return closed - start


async def one_call(repeats: int) -> tuple[float, float]:
    """Median seconds of one short call: raw, and as a whole instance."""
    client = make_session().client("bedrock-runtime")
    runner = make_runner()
    raw, ours = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        await asyncio.to_thread(raw_read, client, "fast", 20)
        raw.append(time.perf_counter() - start)
        start = time.perf_counter()
        await runner.run(make_task("fast", 20), CountingHost())
        ours.append(time.perf_counter() - start)
    await runner.close()
    client.close()
    return statistics.median(raw), statistics.median(ours)


async def measure(url: str, *, quick: bool) -> dict[str, float]:
    chunks, rounds = (150, 3) if quick else (400, 5)
    figures: dict[str, float] = {}
    raw_call, our_call = await one_call(20 if quick else 100)
    figures |= {"call_raw_ms_p50": raw_call * 1e3, "call_gateway_ms_p50": our_call * 1e3}
    for streams in (1, STREAMS):
        delays = sorted(await hand_over(streams, 40 if quick else 100))
        figures[f"chunk_added_ms_p50_{streams}_streams"] = delays[len(delays) // 2] * 1e3
        figures[f"chunk_added_ms_p99_{streams}_streams"] = delays[int(len(delays) * 0.99)] * 1e3
    for query, length in (("fast", chunks), ("paced", 40)):
        # In turns, and the least of each: what a busy machine adds is nobody's cost.
        raw, woken, ours = zip(
            *[
                (
                    (await raw_cost(query, STREAMS, length)).cpu,
                    (await raw_cost(query, STREAMS, length, wakes_loop=True)).cpu,
                    (await gateway_cost(query, STREAMS, length)).cpu,
                )
                for _ in range(rounds)
            ],
            strict=True,
        )
        figures[f"cpu_raw_us_per_chunk_{query}"] = min(raw)
        figures[f"cpu_raw_waking_loop_us_per_chunk_{query}"] = min(woken)
        figures[f"cpu_gateway_us_per_chunk_{query}"] = min(ours)
        figures[f"cpu_added_percent_{query}"] = (min(ours) / min(raw) - 1) * 100
    for query, place in (("slow", "in_stream"), ("silent", "before_first_byte")):
        figures[f"abort_{place}_ms"] = (
            max([await abort(url, query, STREAMS, by_deadline=False) for _ in range(rounds)]) * 1e3
        )
    figures["deadline_in_stream_ms"] = await abort(url, "slow", STREAMS, by_deadline=True) * 1e3
    return figures


AIMS = {
    "chunk_added_ms_p50_1_streams": 1.0,
    f"chunk_added_ms_p50_{STREAMS}_streams": 1.0,
    "cpu_added_percent_fast": 10.0,
    "cpu_added_percent_paced": 10.0,
    "abort_in_stream_ms": 100.0,
    "abort_before_first_byte_ms": 100.0,
    "deadline_in_stream_ms": 100.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer chunks and rounds")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    arguments = parser.parse_args()
    with endpoint() as url:
        os.environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] = url
        figures = uvloop.run(measure(url, quick=arguments.quick))
    if arguments.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
        return
    for name, value in figures.items():
        aim = f"   aim: under {AIMS[name]:g}" if name in AIMS else ""
        print(f"{name:36} {value:10.3f}{aim}")


if __name__ == "__main__":
    main()
