"""What a person sees while a request runs: plan, jobs, partial results and the answer as they come, then what it took."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Protocol, TextIO

from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.struct_pb2 import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from svc_common.money import format_usd

RequestEvent = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult

_STATE_STYLE = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "red", "aborted": "red"}
_PREFIX = "coordinator_get_"
_TAIL_CHARACTERS = 100


class View(Protocol):
    """Shows the events of one request."""

    def show(self, event: RequestEvent) -> None: ...

    def close(self) -> None: ...


def choose_view(as_json: bool, out: TextIO = sys.stdout) -> View:
    if as_json:
        return JsonView(out)
    return LiveView(Console(file=out, highlight=False))


class JsonView:
    """One JSON object per line and event, in the proto's JSON form."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: RequestEvent) -> None:
        self._out.write(MessageToJson(event, indent=None) + "\n")
        self._out.flush()

    def close(self) -> None: ...


class LiveView:
    """Lines that stay for what has happened; on a terminal, moving lines beneath them for what is happening."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._jobs: dict[str, coordinator_pb2.JobSummary] = {}
        self._activity: dict[str, str] = {}
        self._answer = ""
        self._spend = ""
        self._thinking = Spinner("dots", "the coordinator is thinking", style="cyan")
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        if self._live:
            self._live.start()

    def show(self, event: RequestEvent) -> None:
        match event.WhichOneof("event"):
            case "accepted":
                self._print(
                    f"[dim]request[/] {event.accepted.request_id}  [dim]at most[/] {_usd(event.accepted.max_cost)}"
                )
            case "plan":
                self._show_plan(event.plan)
            case "job_update":
                self._show_job(event.job_update.job)
            case "job_progress":
                progress = event.job_progress
                files = f", {progress.files_processed} of {progress.files_total} files" if progress.files_total else ""
                self._activity[progress.job_id] = f"{progress.stage}{files}"
            case "job_text":
                self._show_partial(event.job_text)
            case "answer_text":
                self._answer = "" if event.answer_text.restart else self._answer
                self._answer += event.answer_text.text
            case "spend":
                self._spend = f"{_usd(event.spend.spent)} spent, {_usd(event.spend.held)} held"
            case "warning":
                self._print(f"[yellow]warning[/] {escape(event.warning.message)}")
            case "result":
                self.close()
                show_result(self._console, event.result)
                return
        if self._live:
            self._live.update(self._moving_lines())

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _print(self, markup: str) -> None:
        self._console.print(markup)

    def _show_plan(self, plan: coordinator_pb2.Plan) -> None:
        self._print(f"[bold]plan[/] round {plan.round}" + (f": {escape(plan.thought)}" if plan.thought else ""))
        for planned in plan.calls:
            self._print(f"  [magenta]{_short(planned.tool)}[/] {escape(_arguments(planned.parameters))}")

    def _show_job(self, job: coordinator_pb2.JobSummary) -> None:
        self._jobs[job.job_id] = job
        state = state_name(job.state)
        if job.tool == "coordinate" and state in ("queued", "running"):
            if job.attempt > 1:
                self._print(f"[yellow]request[/] taken over by another coordinator, attempt {job.attempt}")
            return
        style = _STATE_STYLE.get(state, "")
        partial = " [yellow]partial[/]" if job.is_partial else ""
        why = f" [dim]({escape(job.message)})[/]" if job.message else ""
        self._print(f"[{style}]{state:>9}[/] {_short(job.tool)}{partial}{why}")

    def _show_partial(self, text: coordinator_pb2.JobText) -> None:
        tail = (self._activity.get(text.job_id, "") + text.text)[-_TAIL_CHARACTERS:]
        self._activity[text.job_id] = " ".join(tail.split())

    def _moving_lines(self) -> RenderableType:
        lines: list[RenderableType] = [
            Text.assemble(("  running ", "cyan"), _short(job.tool), " ", (self._activity.get(job_id, ""), "dim"))
            for job_id, job in self._jobs.items()
            if state_name(job.state) == "running" and job.tool != "coordinate"
        ]
        if not lines and not self._answer:
            lines.append(self._thinking)
        if self._answer:
            lines.append(Padding(Text(self._answer), (1, 0, 1, 2)))
        if self._spend:
            lines.append(Text(self._spend, style="dim"))
        return Group(*lines)


def show_result(console: Console, result: Result) -> None:
    """The answer, what it rests on, the table of jobs and the budget."""
    outcome = Result.Outcome.Name(result.outcome).removeprefix("OUTCOME_").lower()
    style = {"complete": "green", "partial": "yellow", "failed": "red"}[outcome]
    console.print()
    console.print(Padding(Text(result.answer or "(no answer)"), (0, 0, 1, 2)))
    if result.citations:
        console.print("[bold]files[/] " + escape(", ".join(citation.path for citation in result.citations)))
    console.print(
        f"[bold]outcome[/] [{style}]{outcome}[/]"
        + (f": {escape(result.error.message)}" if outcome != "complete" else "")
    )
    for missing in result.missing:
        console.print(f"  [yellow]missing[/] {escape(missing)}")
    console.print(_jobs_table(result))
    use = result.budget_use
    console.print(
        f"[bold]budget[/] {_usd(result.metadata.cost)} of {_usd(use.max_cost)} "
        f"({use.cost_utilization_percent:.4g} %), "
        f"{result.metadata.duration.ToMicroseconds() / 1e6:.1f} s of {use.max_duration.ToMicroseconds() / 1e6:.0f} s "
        f"({use.time_utilization_percent:.0f} %)"
    )


def _jobs_table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tool", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("time", "in", "out", "cost USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in result.jobs:
        state = state_name(job.state) + (", partial" if job.is_partial else "") + (", cached" if job.is_cached else "")
        table.add_row(
            _short(job.tool),
            ", ".join(job.model_ids),
            state,
            f"{job.duration.ToMicroseconds() / 1e6:.1f} s",
            *_tokens(job.tokens),
            format_usd(job.cost.pico_usd),
        )
    metadata = result.metadata
    jobs_cost = sum(job.cost.pico_usd for job in result.jobs)
    jobs_tokens = _sum_tokens(job.tokens for job in result.jobs)
    own = common_pb2.TokenUsage(
        input_tokens=metadata.tokens.input_tokens - jobs_tokens.input_tokens,
        output_tokens=metadata.tokens.output_tokens - jobs_tokens.output_tokens,
    )
    table.add_row("coordinator", "", "", "", *_tokens(own), format_usd(metadata.cost.pico_usd - jobs_cost))
    table.add_row(
        "all",
        ", ".join(metadata.model_ids),
        "",
        f"{metadata.duration.ToMicroseconds() / 1e6:.1f} s",
        *_tokens(metadata.tokens),
        format_usd(metadata.cost.pico_usd),
        style="bold",
    )
    return table


def state_name(state: common_pb2.JobState.ValueType) -> str:
    return common_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


def _sum_tokens(usages: Iterable[common_pb2.TokenUsage]) -> common_pb2.TokenUsage:
    total = common_pb2.TokenUsage()
    for usage in usages:
        total.input_tokens += usage.input_tokens
        total.output_tokens += usage.output_tokens
    return total


def _tokens(usage: common_pb2.TokenUsage) -> tuple[str, str]:
    return str(usage.input_tokens), str(usage.output_tokens)


def _short(tool: str) -> str:
    return tool.removeprefix(_PREFIX)


def _usd(amount: common_pb2.Amount) -> str:
    return f"{format_usd(amount.pico_usd)} USD"


def _arguments(parameters: Struct) -> str:
    text = json.dumps(MessageToDict(parameters), ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
