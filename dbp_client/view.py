"""What a person sees while a request runs: plan, jobs, partial results and the answer as they come, then what it took."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Protocol, TextIO

from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.struct_pb2 import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.markup import escape
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from svc_common.money import PICO, format_usd

RequestEvent = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult

_STATE_STYLE = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "red", "aborted": "red"}
_PREFIX = "coordinator_get_"
_TAIL_CHARACTERS = 100
_NOT_WORDS = re.compile(r'\\[a-z]|[{}\[\]"\\,]')


class View(Protocol):
    """Shows the events of one request."""

    def show(self, event: RequestEvent) -> None: ...

    def close(self) -> None: ...


def choose_view(as_json: bool, out: TextIO = sys.stdout) -> View:
    if as_json:
        return JsonView(out)
    return LiveView(open_console(out))


def open_console(out: TextIO = sys.stdout) -> Console:
    """On a terminal lines are broken where it ends; elsewhere they stay whole, for whatever reads them."""
    return Console(file=out, highlight=False, soft_wrap=not out.isatty())


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
        self._stages: dict[str, str] = {}
        self._texts: dict[str, str] = {}
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
                self._stages[progress.job_id] = f"{progress.stage}{files}"
            case "job_text":
                text = self._texts.get(event.job_text.job_id, "") + event.job_text.text
                self._texts[event.job_text.job_id] = text[-_TAIL_CHARACTERS:]
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
                self._print(f"[yellow]request[/] begun again where it broke off, attempt {job.attempt}")
            return
        style = _STATE_STYLE.get(state, "")
        partial = " [yellow]partial[/]" if job.is_partial else ""
        why = f" [dim]({escape(job.message)})[/]" if job.message else ""
        self._print(f"[{style}]{state:>9}[/] {_short(job.tool)}{partial}{why}")

    def _activity(self, job_id: str) -> str:
        """What a job does at the moment: the end of what its model writes, mostly JSON, in words; else its stage."""
        words = " ".join(_NOT_WORDS.sub(" ", self._texts.get(job_id, "")).split())
        return f"... {words}" if words else self._stages.get(job_id, "")

    def _moving_lines(self) -> RenderableType:
        lines: list[RenderableType] = [
            Text.assemble(("  running ", "cyan"), _short(job.tool), " ", (self._activity(job_id), "dim"))
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
    answer = result.answer or "(no answer)"
    if console.is_terminal:
        is_markup = not result.HasField("answer_json")
        console.print(Padding(Markdown(answer) if is_markup else Text(answer), (0, 0, 1, 2)))
    else:
        console.print(Text(answer.strip()), end="\n\n")
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
        f"{result.metadata.duration.ToMicroseconds() / 1e6:.1f} s of {use.max_duration.ToMicroseconds() / 1e6:.1f} s "
        f"({use.time_utilization_percent:.0f} %)"
    )


def _jobs_table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tool", overflow="fold")
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for name in ("time", "in", "out", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in result.jobs:
        table.add_row(
            _short(job.tool),
            _models(job.model_ids),
            _ending(job),
            f"{job.duration.ToMicroseconds() / 1e6:.1f} s",
            *_tokens(job.tokens),
            _micro_usd(job.cost.pico_usd),
        )
    metadata = result.metadata
    own = _own_tokens(metadata.tokens, [job.tokens for job in result.jobs])
    own_cost = metadata.cost.pico_usd - sum(job.cost.pico_usd for job in result.jobs)
    table.add_row("coordinator", "", "", "", *_tokens(own), _micro_usd(own_cost))
    table.add_row(
        "all",
        _models(metadata.model_ids),
        "",
        f"{metadata.duration.ToMicroseconds() / 1e6:.1f} s",
        *_tokens(metadata.tokens),
        _micro_usd(metadata.cost.pico_usd),
        style="bold",
    )
    return table


def _ending(job: coordinator_pb2.JobSummary) -> str:
    state = state_name(job.state)
    if state != "succeeded":
        return state
    return "partial" if job.is_partial else "cached" if job.is_cached else state


def _models(model_ids: Sequence[str]) -> str:
    """Without region, vendor and version suffix: what tells them apart in a narrow column."""
    return ", ".join(model_id.rpartition(".")[2].removesuffix(":0") for model_id in model_ids)


def _own_tokens(total: common_pb2.TokenUsage, of_jobs: Sequence[common_pb2.TokenUsage]) -> common_pb2.TokenUsage:
    """What is not the jobs'."""
    own = common_pb2.TokenUsage()
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"):
        setattr(own, name, getattr(total, name) - sum(getattr(usage, name) for usage in of_jobs))
    return own


def state_name(state: common_pb2.JobState.ValueType) -> str:
    return common_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


def _tokens(usage: common_pb2.TokenUsage) -> tuple[str, str]:
    """Tokens in, from and to the prompt cache included, and tokens out."""
    into = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return str(into), str(usage.output_tokens)


def _micro_usd(pico_usd: int) -> str:
    """Six places, which tell what a small model's call costs; the exact amount is in the budget's line."""
    micro = (pico_usd + PICO // 2_000_000) // (PICO // 1_000_000)
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}"


def _short(tool: str) -> str:
    return tool.removeprefix(_PREFIX)


def _usd(amount: common_pb2.Amount) -> str:
    return f"{format_usd(amount.pico_usd)} USD"


def _arguments(parameters: Struct) -> str:
    text = json.dumps(MessageToDict(parameters), ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
