"""The `dbp` command.

Exit codes: 0 complete, 1 an error that is none of these, 2 bad usage or bad input, 3 partial, 4 failed, 5 unreachable,
130 cancelled by Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dbp.coordinator.v1 import coordinator_pb2
from google.protobuf.json_format import MessageToDict

from dbp_client.client import LONGEST_SECONDS, SHORTEST_SECONDS, AsyncClient, RequestEvent
from dbp_client.house import SERVICES, House, HouseError
from dbp_client.view import View, choose_view, open_console, show_result, state_name
from llm.audit import verify_chain
from svc_common.errors import ErrorReason, ServiceError
from svc_common.money import format_usd, parse_usd
from svc_common.settings import CommonSettings, SettingsError, load

COMPLETE, ERROR, USAGE, PARTIAL, FAILED, UNREACHABLE, CANCELLED = 0, 1, 2, 3, 4, 5, 130

_OUTCOMES = {
    coordinator_pb2.RequestResult.OUTCOME_COMPLETE: COMPLETE,
    coordinator_pb2.RequestResult.OUTCOME_PARTIAL: PARTIAL,
    coordinator_pb2.RequestResult.OUTCOME_FAILED: FAILED,
}
_USAGE_REASONS = frozenset(
    {
        ErrorReason.INVALID_ARGUMENT,
        ErrorReason.REQUEST_NOT_FOUND,
        ErrorReason.REQUEST_CONFLICT,
        ErrorReason.WORKSPACE_NOT_FOUND,
        ErrorReason.TOOL_NOT_FOUND,
        ErrorReason.JOB_NOT_FOUND,
        ErrorReason.UNAUTHENTICATED,
        ErrorReason.PERMISSION_DENIED,
    }
)

_HOUSE_OPTIONS = ("workspace", "data", "bedrock")

Command = Callable[[argparse.Namespace], Awaitable[int]]


def main(argv: list[str] | None = None) -> None:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if misplaced := _house_options_without_house(arguments):
        parser.error(f"{misplaced} goes with --up: services that are up already have their own")
    sys.exit(run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Runs a parsed command and returns its exit code."""
    command: Command = arguments.command
    try:
        return asyncio.run(_cancellable(command(arguments)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return CANCELLED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except (SettingsError, HouseError) as error:
        sys.stderr.write(f"dbp: {error}\n")
        return ERROR
    except ServiceError as error:
        sys.stderr.write(f"dbp: {error.message} ({error.reason})\n")
        if error.reason in (ErrorReason.SERVICE_UNAVAILABLE, ErrorReason.STORE_UNAVAILABLE):
            return UNREACHABLE
        return USAGE if error.reason in _USAGE_REASONS else ERROR


async def _cancellable(work: Awaitable[int]) -> int:
    """Ctrl-C, SIGTERM and a closed terminal cancel the work, so that what it began is ended in its `finally` blocks."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Once: a second one would cut short the stopping of what was begun.
        if not task.cancelling():
            sys.stderr.write("stopping ...\n")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    return await task


async def _up(arguments: argparse.Namespace) -> int:
    async with _house(arguments, free_ports=False) as house:
        print("all services are up; Ctrl-C stops them")
        for name in SERVICES:
            print(f"  {name:16} {house.address(name)}   log {house.log_of(name)}")
        sys.stdout.flush()  # whoever waits for these lines at the end of a pipe shall see them now
        await asyncio.Event().wait()
    return COMPLETE


async def _ask(arguments: argparse.Namespace) -> int:
    if not arguments.up:
        return await _ask_house(arguments, load(CommonSettings))
    async with _house(arguments, free_ports=True) as house:
        return await _ask_house(arguments, house.settings)


async def _ask_house(arguments: argparse.Namespace, settings: CommonSettings) -> int:
    async with AsyncClient(settings) as client:
        code = await _show(
            client.ask(
                arguments.question,
                workspace=arguments.workspace_name,
                timeout=arguments.timeout,
                max_cost=arguments.max_cost or "",
                request_id=arguments.request_id,
                continue_when_detached=arguments.detach,
                response_format=coordinator_pb2.ResponseFormat.Value(f"RESPONSE_FORMAT_{arguments.format.upper()}"),
                tenant=arguments.tenant,
                previous_request_id=arguments.previous,
            ),
            choose_view(arguments.json),
        )
    return ERROR if code is None else code


async def _watch(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        code = await _show(client.watch(arguments.request, arguments.after), choose_view(arguments.json))
        if code is not None:
            return code
        request = await client.get(arguments.request)
        sys.stderr.write(f"nothing came after {arguments.after}; the last event was {request.last_sequence}\n")
        return _OUTCOMES.get(request.result.outcome, COMPLETE)


async def _show(events: AsyncGenerator[RequestEvent, None], view: View) -> int | None:
    """Shows events to their end; the exit code of the result, or None when none came."""
    code: int | None = None
    try:
        async for event in events:
            view.show(event)
            if event.WhichOneof("event") == "result":
                code = _OUTCOMES.get(event.result.outcome, ERROR)
    finally:
        view.close()
        await events.aclose()  # which cancels the request, if it has not ended
    return code


async def _status(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        request = await client.get(arguments.request)
    if arguments.json:
        print(json.dumps(MessageToDict(request), ensure_ascii=False))
    else:
        print(f"{request.id}  {state_name(request.state)}  {request.query}")
        if request.HasField("result"):
            show_result(open_console(), request.result)
    return _OUTCOMES.get(request.result.outcome, COMPLETE)


async def _cancel(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        request = await client.cancel(arguments.request)
    print(json.dumps(MessageToDict(request)) if arguments.json else f"{request.id}  {state_name(request.state)}")
    return COMPLETE


async def _tools(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        for tool in await client.tools():
            if arguments.json:
                print(json.dumps(MessageToDict(tool), ensure_ascii=False))
            else:
                print(f"{tool.name}\n    {tool.description}\n    runs as: {tool.model_role or 'a plain function'}")
    return COMPLETE


async def _read(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        response = await client.read_files(arguments.paths, arguments.workspace_name)
    for file in response.files:
        if arguments.json:
            print(json.dumps(MessageToDict(file), ensure_ascii=False))
        elif file.exists and not file.error:
            print(f"==> {file.path} ({file.size} bytes)\n{file.content}")
        else:
            sys.stderr.write(f"dbp: {file.path}: {file.error} ({file.error_code})\n")
    return PARTIAL if response.missing else COMPLETE


async def _context(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        context = await client.prepare_context(arguments.tool, arguments.query, arguments.workspace_name)
    if arguments.json:
        print(json.dumps(MessageToDict(context), ensure_ascii=False))
    else:
        print(f"{context.system}\n\n{context.user}")
        sys.stderr.write(
            f"at most {context.tokens} tokens, {len(context.included_paths)} of {context.files_total} files, "
            f"{context.left_out_count} relevant ones left out\n"
        )
    return COMPLETE


async def _audit(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        records = await client.audit(arguments.request)
    for record in records:
        kept = json.loads(record.record_json)
        if arguments.json:
            print(json.dumps({"sequence": record.sequence, "job_id": record.job_id, **kept}))
        else:
            print(_audit_line(record.sequence, kept))
    broken = verify_chain(records)
    verdict = "unbroken" if broken is None else f"BROKEN at record {broken}"
    sys.stderr.write(f"{len(records)} records, chain {verdict}\n")
    return COMPLETE if broken is None else FAILED


def _audit_line(sequence: int, record: Mapping[str, Any]) -> str:
    """A record for a human: who spoke, to whom, what became of it and at which cost."""
    if record["type"] == "model_call":
        parties = f"{record['job_id']} -> {record['model']}"
    else:
        parties = f"{record['from']} -> {record['to']}"
    cost = f"  {format_usd(record['cost_pico_usd'])}" if "cost_pico_usd" in record else ""
    return (
        f"{sequence:>4}  {record['type']:<10}  {record['role']:<24}  {parties}  {record.get('outcome', 'asked')}{cost}"
    )


async def _verify_budget(arguments: argparse.Namespace) -> int:
    async with AsyncClient() as client:
        response = await client.verify_ledger()
    if arguments.json:
        print(json.dumps(MessageToDict(response)))
    else:
        print(f"{response.checked_budgets} budgets, {response.checked_entries} ledger entries")
        for difference in response.differences:
            print(
                f"  {difference.budget_id}: {difference.balance} is {difference.recorded}, "
                f"by the ledger {difference.computed}"
            )
    return FAILED if response.differences else COMPLETE


async def _bedrock(arguments: argparse.Namespace) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "local_bedrock", *arguments.rest)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def _house(arguments: argparse.Namespace, *, free_ports: bool) -> AsyncIterator[House]:
    root = (arguments.workspace or Path()).resolve()
    if not root.is_dir():
        raise HouseError(f"{root} is not a folder")
    sys.stderr.write("starting the services ...\n")
    # A house for one question keeps out of the way of one that is up.
    data = arguments.data or Path(".dbp/ask" if free_ports else ".dbp")
    async with House(data, {"default": root}, arguments.bedrock or "local", free_ports) as house:
        yield house


def _house_options_without_house(arguments: argparse.Namespace) -> str:
    """The first option about services to be started, where none are; "" when all is well."""
    if getattr(arguments, "up", True):
        return ""
    return next((f"--{name}" for name in _HOUSE_OPTIONS if getattr(arguments, name) is not None), "")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 1500ms or 2m")
    seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, None: 1}[match[2]]
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"a time must be between {SHORTEST_SECONDS:g}s and {LONGEST_SECONDS:g}s")
    return seconds


def _sequence(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of an event")
    return int(text)


def _usd(text: str) -> str:
    try:
        parse_usd(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dbp", description="Ask coordinated LLMs about a codebase.", epilog=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command)
        return sub

    def add_house_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--workspace", type=Path, help="folder to ask about (default: this one)")
        sub.add_argument(
            "--data", type=Path, help="folder of databases and logs (default: .dbp, or .dbp/ask for one question)"
        )
        sub.add_argument(
            "--bedrock",
            metavar="local|aws|SCRIPT",
            help="bundled model, Amazon Bedrock by AWS credentials, or a script for the local endpoint (default: local)",
        )

    up = add("up", _up, "start all services on this machine, until Ctrl-C")
    add_house_options(up)

    ask = add("ask", _ask, "ask a question and watch it being answered")
    ask.add_argument("question")
    ask.add_argument("--up", action="store_true", help="start the services for this question alone, on free ports")
    add_house_options(ask)
    ask.add_argument("--timeout", type=_seconds, default=30.0, help="longest time, e.g. 60s (default: 30s)")
    ask.add_argument("--max-cost", type=_usd, default=None, help="most it may cost in US dollars (default: 1.00)")
    ask.add_argument("--format", choices=("concise", "detailed", "markdown", "json"), default="markdown")
    ask.add_argument("--tenant", default="", help="who pays (default: default)")
    ask.add_argument("--request-id", default="", help="id and idempotency key of the request (default: a new one)")
    ask.add_argument("--previous", default="", metavar="REQUEST", help="an earlier request that this one continues")
    ask.add_argument("--detach", action="store_true", help="let the request go on when this command is stopped")

    watch = add("watch", _watch, "watch a request from any point of its events")
    watch.add_argument("request")
    watch.add_argument(
        "--after", type=_sequence, default=0, metavar="SEQUENCE", help="only what came after it (default: all)"
    )

    for name, command, summary in (
        ("status", _status, "show a request and its result"),
        ("cancel", _cancel, "cancel a request and all its work"),
        ("audit", _audit, "print a request's audit log and verify its chain"),
    ):
        add(name, command, summary).add_argument("request")

    add("tools", _tools, "list the tools")

    read = add("read", _read, "read files as an LLM would")
    read.add_argument("paths", nargs="+", metavar="PATH")

    context = add("context", _context, "print what the LLM of a tool would be shown")
    context.add_argument("tool")
    context.add_argument("query")

    budget = add("budget", _verify_budget, "prove the balances from the ledger")
    budget.add_argument("action", choices=("verify",))

    for sub in commands.choices.values():
        sub.add_argument("--json", action="store_true", help="print JSON lines")
    for sub in (ask, read, context):
        sub.add_argument("--workspace-name", default="default", help="name of a configured workspace")

    summary = "start the local Bedrock endpoint alone; arguments are its own"
    # To a parser without a prefix for options all that follows are arguments, to be read by the endpoint's own.
    bedrock = commands.add_parser("bedrock", help=summary, add_help=False, prefix_chars="\0")
    bedrock.add_argument("rest", nargs=argparse.REMAINDER)
    bedrock.set_defaults(command=_bedrock)
    return parser
