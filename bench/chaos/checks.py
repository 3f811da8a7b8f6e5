"""The promises, checked against the trails of a run. A check returns, in words, what it finds broken: nothing, if all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2

from bench.chaos.evidence import Trail
from bench.chaos.lag import LagProbe
from bench.chaos.outages import Outage, is_quiet, up_again, without
from local_bedrock.invoice import CallState
from svc_common.endings import JobState
from svc_common.times import MICROS, from_timestamp, now
from tests.support.house import billed_pico_usd

Result = coordinator_pb2.RequestResult

HANG_MICROS = MICROS
MODEL_CALL_MICROS = MICROS // 10
TOOL_WORK_MICROS = MICROS
# Within so long of jobs_svc's return its workers watch for stops again.
REWATCH_MICROS = MICROS // 2


@dataclass(frozen=True)
class Scene:
    """What a check must know beside the trail: which services were away, and how the machine itself lagged."""

    outages: Sequence[Outage]
    lag: LagProbe

    def late(self, job: jobs_pb2.Job, time: int) -> int:
        """Microseconds from a job's end to `time` in which its worker could have heard of the end: those count not in which it was
        paused or jobs_svc away, nor those in which the machine was too busy."""
        doer = "coordinator_svc" if job.id == job.root_id else "tool_svc"
        deaf = [(outage.began, outage.ended or time) for outage in self.outages if outage.service == doer]
        deaf += [
            (outage.began, (outage.ended or time) + REWATCH_MICROS)
            for outage in self.outages
            if outage.service == "jobs_svc"
        ]
        hearing = without((from_timestamp(job.end_time), time), deaf)
        return sum(ended - began - self.lag.within(began, ended) for began, ended in hearing)


def overspend(trail: Trail, scene: Scene) -> list[str]:
    """Money: what the endpoint bills <= what the ledger says <= the limit."""
    billed = billed_pico_usd(trail.calls)
    if trail.budget is None:
        return [f"{billed} pico-USD were billed without a budget"] if billed else []
    counted = trail.budget.spent.pico_usd + trail.budget.held.pico_usd
    found = []
    if billed > counted:
        found.append(f"{billed} pico-USD were billed, {counted} are in the ledger")
    if counted > trail.budget.limit.pico_usd:
        found.append(f"{counted} pico-USD are in the ledger, the limit is {trail.budget.limit.pico_usd}")
    return found


def open_charges(trail: Trail, scene: Scene) -> list[str]:
    """Charges that neither settled nor expired."""
    held = trail.budget.held.pico_usd if trail.budget else 0
    return [f"{held} pico-USD are held still"] if held else []


def lost_outcomes(trail: Trail, scene: Scene) -> list[str]:
    """Every job has an outcome, and the log says so, the root's as its last word."""
    ends = Counter(event.job_id for event in _ends(trail))
    found = [f"job {job.id} ended, but not in the log" for job in trail.jobs.values() if _is_over(job) > ends[job.id]]
    found += [f"job {job.id} has no outcome" for job in trail.jobs.values() if not _is_over(job)]
    if not trail.log or trail.log[-1].job_id != trail.root.id or not _is_end(trail.log[-1]):
        found.append("the log does not end with the end of the request")
    if trail.replay.result is None:
        found.append("the request's events do not end with its result")
    return found


def duplicate_outcomes(trail: Trail, scene: Scene) -> list[str]:
    """One outcome per job, the same for whoever asks and whenever."""
    found = [f"job {id_} ended {n} times" for id_, n in Counter(e.job_id for e in _ends(trail)).items() if n > 1]
    for event in _ends(trail):
        job = trail.jobs.get(event.job_id)
        if job is not None and job.state != event.state_change.state:
            found.append(f"job {job.id} is in state {job.state}, the log says {event.state_change.state}")
    for job_id, before in trail.asked.jobs_at_end.items():
        if before != trail.jobs.get(job_id):
            found.append(f"job {job_id} changed after the end of its request")
    results = [seen.result for seen in (*trail.asked.seen, trail.replay) if seen.result is not None]
    found += [
        f"two watchers got different results: {result} and {results[0]}"
        for result in results[1:]
        if _core(result) != _core(results[0])
    ]
    return found


def hangs(trail: Trail, scene: Scene) -> list[str]:
    """The end comes by the deadline and a second, counted from when jobs_svc is there to record it."""
    deadline = from_timestamp(trail.root.deadline)
    ended = from_timestamp(trail.root.end_time) or now()
    late = ended - up_again(scene.outages, "jobs_svc", deadline)
    found = [f"ended {late / MICROS:.2f} s after its deadline"] if late > HANG_MICROS else []
    if trail.asked.has_hung:
        found.append("a caller's stream did not end")
    return found


def replay_gaps(trail: Trail, scene: Scene) -> list[str]:
    """No watcher misses anything or sees it twice, whatever happened to its connections."""
    found = [gap for seen in (*trail.asked.seen, trail.replay) for gap in seen.gaps]
    for seen in trail.asked.seen:
        if seen.result is not None and seen.text != trail.replay.text:
            found.append(f"a watcher saw {seen.text!r}, another one {trail.replay.text!r}")
        if seen.last > trail.replay.last:
            found.append(f"a watcher saw event {seen.last}, the log ends with {trail.replay.last}")
    return found


def late_model_calls(trail: Trail, scene: Scene) -> list[str]:
    """No model call goes on for long after the end of the job that made it."""
    found = []
    for record in trail.calls:
        job = trail.jobs.get(record.metadata.get("job_id", ""))
        if job is None:
            found.append(f"model call {record.call_id} was made by no job of the request")
            continue
        ended = now() if record.state is CallState.RUNNING else record.end_time
        if _is_over(job) and (late := scene.late(job, ended)) > MODEL_CALL_MICROS:
            found.append(
                f"{job.kind}: a model call ({record.state}) ran {late / 1000:.0f} ms longer than its job "
                f"(state {job.state}, {job.error_message or 'no error'})"
            )
    return found


def late_tool_work(trail: Trail, scene: Scene) -> list[str]:
    """No worker goes on for long after the end of its job."""
    found = []
    for job_id, stopped in trail.stopped.items():
        job = trail.jobs[job_id]
        if _is_over(job) and (late := scene.late(job, stopped)) > TOOL_WORK_MICROS:
            found.append(f"{job.kind}: its worker went on for {late / MICROS:.2f} s after its end")
    return found


Check = Callable[[Trail, Scene], list[str]]

CHECKS: dict[str, Check] = {
    "overspend": overspend,
    "open charges": open_charges,
    "lost outcomes": lost_outcomes,
    "duplicate outcomes": duplicate_outcomes,
    "hangs": hangs,
    "replay gaps": replay_gaps,
    "model calls after the end": late_model_calls,
    "tool work after the end": late_tool_work,
}


def stop_delays(trails: Sequence[Trail]) -> list[int]:
    """Microseconds by which model calls outlasted jobs that were ended from outside; the machine's lag is in them."""
    delays = []
    for trail in trails:
        for record in trail.calls:
            job = trail.jobs.get(record.metadata.get("job_id", ""))
            if job is not None and JobState(job.state) is JobState.ABORTED and record.state is CallState.DISCONNECTED:
                delays.append(record.end_time - from_timestamp(job.end_time))
    return [delay for delay in delays if delay > 0]


def overshoot(trails: Sequence[Trail], outages: Sequence[Outage], *, only_quiet: bool) -> list[int]:
    """Microseconds from the deadline to the end (negative: before it) of requests that time cut short."""
    late = []
    for trail in trails:
        result, start, end = (
            trail.replay.result,
            from_timestamp(trail.root.create_time),
            from_timestamp(trail.root.end_time),
        )
        if result is not None and result.budget_use.time_exceeded and (not only_quiet or is_quiet(outages, start, end)):
            late.append(end - from_timestamp(trail.root.deadline))
    return late


def _ends(trail: Trail) -> list[jobs_pb2.Event]:
    return [event for event in trail.log if _is_end(event)]


def _is_end(event: jobs_pb2.Event) -> bool:
    return event.HasField("state_change") and JobState(event.state_change.state).is_terminal


def _is_over(job: jobs_pb2.Job) -> bool:
    return JobState(job.state).is_terminal


def _core(result: Result) -> tuple[object, ...]:
    """What of a result no later look may change. What it cost may: calls that were cut off are paid for a little later."""
    states = sorted((job.job_id, job.state) for job in result.jobs)
    return result.outcome, result.answer, result.error.reason, states, list(result.missing)
