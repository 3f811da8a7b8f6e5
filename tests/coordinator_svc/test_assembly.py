"""How a result is put together, and what of it the coordinator LLM is told."""

from __future__ import annotations

from dbp.budget.v1 import budget_pb2
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2

from coordinator_svc.answers import Answer
from coordinator_svc.digest import Digest
from coordinator_svc.findings import previous_request
from coordinator_svc.requests import RequestSpec
from coordinator_svc.results import ToolJob, assemble
from svc_common.endings import EndReason
from svc_common.money import to_amount

SPEC = RequestSpec(id="r", tenant="t", query="q", workspace="w")
QUEUE_LIMIT = 2 * 1024 * 1024


def tool_job(number: int, result: tool_pb2.ToolResult | None = None, **fields: object) -> jobs_pb2.Job:
    data = result.SerializeToString() if result else b""
    job = jobs_pb2.Job(id=f"r.{number}", kind="search", state=common_pb2.JOB_STATE_SUCCEEDED, attempt=1, result=data)
    job.MergeFrom(jobs_pb2.Job(**fields))  # type: ignore[arg-type]
    return job


def output(**fields: str) -> tool_pb2.ToolResult:
    result = tool_pb2.ToolResult(tool="search")
    result.output.update(fields)
    return result


def assembled(
    *jobs: ToolJob, answer: Answer | None = None, root: jobs_pb2.Job | None = None
) -> coordinator_pb2.RequestResult:
    complete = Answer(text="the answer", is_partial=False)
    return assemble(SPEC, root or jobs_pb2.Job(id="r"), jobs, None, answer or complete, end=1)


def test_what_many_jobs_found_is_cut_to_what_the_queue_takes_and_the_answer_stays() -> None:
    large = [ToolJob.of(tool_job(n, output(found="x" * 256_000))) for n in range(60)]
    small = ToolJob.of(tool_job(99, output(found="little")))
    result = assembled(*large, small)
    assert result.ByteSize() <= QUEUE_LIMIT
    assert result.answer == "the answer"
    assert len(result.job_results) == 61
    assert "bytes left out" in result.job_results[0].text
    assert any("r.0" in missing for missing in result.missing)
    assert result.job_results[60].output["found"] == "little"


def test_a_job_of_lost_attempts_costs_what_its_budget_says() -> None:
    budget = budget_pb2.Budget(spent=to_amount(70), held=to_amount(30))
    aborted = tool_job(1, state=common_pb2.JOB_STATE_ABORTED, end_reason=common_pb2.END_REASON_CANCELLED)
    [job] = assembled(ToolJob.of(aborted, "half a", budget)).jobs
    assert job.cost.pico_usd == 100


def test_a_job_that_no_worker_began_says_so() -> None:
    waited = tool_job(1, state=common_pb2.JOB_STATE_ABORTED, end_reason=common_pb2.END_REASON_TIMEOUT)
    waited.attempt, waited.error_message = 0, "its deadline passed"
    assert "no worker had begun it" in assembled(ToolJob.of(waited)).missing[0]


def test_a_request_that_ran_out_of_time_tells_what_its_earlier_attempts_died_of() -> None:
    root = jobs_pb2.Job(id="r", end_reason=common_pb2.END_REASON_TIMEOUT, error_message="its deadline passed")
    root.attempt_errors.add(attempt=1, message="budget_svc did not answer")
    result = assembled(root=root, answer=Answer(reason=EndReason.TIMEOUT))
    assert result.error.message == "its deadline passed; before that: budget_svc did not answer"


def test_findings_of_an_earlier_request_are_told_job_by_job_and_cut_with_a_mark() -> None:
    result = coordinator_pb2.RequestResult(answer="before")
    for number, text in enumerate(("first", "second", "y" * 100_000)):
        result.job_results.add(job_id=f"r.{number}", tool="search", text=text)
    told = previous_request("what?", result).splitlines()
    assert len(told) == 4
    assert "first" in told[1]
    assert "second" in told[2]
    assert "bytes left out" in told[3]
    assert len(told[3]) < 10_000


def test_the_text_of_an_attempt_stays_until_the_next_one_speaks() -> None:
    def event(sequence: int, text: str = "") -> jobs_pb2.Event:
        if text:
            return jobs_pb2.Event(sequence=sequence, job_id="r.1", text=jobs_pb2.TextOutput(text=text))
        running = jobs_pb2.StateChange(state=common_pb2.JOB_STATE_RUNNING)
        return jobs_pb2.Event(sequence=sequence, job_id="r.1", state_change=running)

    digest = Digest("r")
    seen = []
    for number, text in enumerate(("", "one", " two", "", "again"), 1):
        digest.take(event(number, text))
        seen.append(digest.text("r.1"))
    assert seen == ["", "one", "one two", "one two", "again"]
