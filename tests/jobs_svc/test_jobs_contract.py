"""What callers of jobs_svc may rely on, over both stores: creation, claims, reports, aborts, reads."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

import pytest
from dbp.jobs.v1 import jobs_pb2

from svc_common.channel import stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.server import StartupError
from svc_common.times import now
from tests.jobs_svc.client import (
    ABORTED,
    ACCEPTED,
    CANCELLED,
    FAILED,
    INTERNAL_ERROR,
    JOB_ENDED,
    LLM_ERROR,
    NOT_FOUND,
    QUEUED,
    RUNNING,
    STALE,
    SUCCEEDED,
    TIMEOUT,
    Client,
    Services,
    about,
    new_job,
    note,
    text,
)


async def refused(awaitable: object) -> ErrorReason:
    with pytest.raises(ServiceError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.reason


# Creation


async def test_a_tree_is_created_in_one_call_and_read_back(client: Client) -> None:
    root = new_job("root", payload=b"\x00question", priority=3, labels={"workspace": "w"}, traceparent="00-1-2-01")
    child = new_job("child", parent_id="root", kind="tool", seconds=3600)
    created = await client.create(root, child)
    assert [job.created for job in created] == [True, True]
    job = await client.get("root")
    assert job == created[0].job or job.last_sequence == 2
    assert (job.payload, job.priority, dict(job.labels), job.traceparent) == (
        b"\x00question",
        3,
        {"workspace": "w"},
        "00-1-2-01",
    )
    assert (job.state, job.attempt, job.max_attempts, job.root_id, job.parent_id) == (QUEUED, 0, 3, "root", "")
    child_job = await client.get("child")
    assert (child_job.root_id, child_job.parent_id, child_job.tenant) == ("root", "root", "a")
    assert child_job.deadline == job.deadline  # cut to the parent's


async def test_a_repeated_creation_returns_the_job_as_it_stands(client: Client) -> None:
    await client.create(new_job("j", payload=b"p"))
    lease = await client.claim_one()
    [again] = await client.create(new_job("j", payload=b"p", seconds=30, priority=9, traceparent="00-other"))
    assert (again.created, again.job.state, again.job.priority) == (False, RUNNING, 0)
    await client.succeed(lease)
    [again] = await client.create(new_job("j", payload=b"p"))
    assert (again.created, again.job.state, again.job.result) == (False, SUCCEEDED, b"done")
    assert len(await client.log("j")) == 3


async def test_the_same_id_twice_in_one_call_is_one_job(client: Client) -> None:
    created = await client.create(new_job("j"), new_job("j"))
    assert [job.created for job in created] == [True, False]
    assert len(await client.claim(jobs=10)) == 1


async def test_other_content_under_a_taken_id_creates_nothing_at_all(client: Client) -> None:
    await client.create(new_job("taken", payload=b"p"))
    for changed in (new_job("taken", payload=b"q"), new_job("taken", payload=b"p", kind="other")):
        assert await refused(client.create(new_job("fresh"), changed)) is ErrorReason.JOB_CONFLICT
    assert await refused(client.get("fresh")) is ErrorReason.JOB_NOT_FOUND


async def test_a_child_needs_a_parent_that_has_not_ended(client: Client) -> None:
    assert await refused(client.create(new_job("c", parent_id="nobody"))) is ErrorReason.JOB_NOT_FOUND
    await client.create(new_job("root"), new_job("kept", parent_id="root", kind="tool"))
    await client.abort("root")
    assert await refused(client.create(new_job("c", parent_id="root"))) is ErrorReason.JOB_ENDED
    [again] = await client.create(new_job("kept", parent_id="root", kind="tool"))
    assert (again.created, again.job.state) == (False, ABORTED)


async def test_bad_input_is_named(client: Client) -> None:
    for bad, field in (
        (new_job("j", tenant=""), "jobs[0].tenant"),
        (new_job("j", seconds=-1), "jobs[0].deadline"),
        (new_job("a b"), "jobs[0].id"),
        (new_job("j", kind="No Kind"), "jobs[0].kind"),
    ):
        with pytest.raises(ServiceError) as caught:
            await client.create(bad)
        assert caught.value.reason is ErrorReason.INVALID_ARGUMENT
        assert [violation.field for violation in caught.value.violations] == [field]
    for token in ("nonsense", base64.urlsafe_b64encode(b"9" * 30 + b"/j").decode()):
        assert await refused(client.list_jobs(page_token=token)) is ErrorReason.INVALID_ARGUMENT
    request = jobs_pb2.ListAuditRecordsRequest(root_id="j", page_token="9" * 30)
    assert await refused(client.call("ListAuditRecords", request)) is ErrorReason.INVALID_ARGUMENT


async def test_a_creator_can_claim_what_it_creates(client: Client) -> None:
    await client.create(new_job("before"))
    [created] = await client.create(new_job("mine", payload=b"p"), claim_for_worker_id="me")
    assert (created.lease.fencing_token, created.lease.job.payload, created.job.state) == (1, b"p", RUNNING)
    [again] = await client.create(new_job("mine", payload=b"p"), claim_for_worker_id="me")
    assert not again.HasField("lease")
    assert await client.succeed(created.lease) == ACCEPTED
    assert [about(event)[1] for event in await client.log("mine")] == [RUNNING, SUCCEEDED]


async def test_unfinished_roots_can_be_limited(client: Client) -> None:
    limits = {"max_unfinished_roots_of_tenant": 2, "max_unfinished_roots": 3}
    await client.create(new_job("a1"), new_job("a2"), **limits)
    with pytest.raises(ServiceError) as caught:
        await client.create(new_job("a3"), **limits)
    assert caught.value.reason is ErrorReason.OVERLOADED
    assert caught.value.retry_after
    await client.create(new_job("a1"), **limits)  # a repeat is not one more
    await client.create(new_job("b1", tenant="b"), new_job("b1.child", parent_id="b1"), **limits)
    assert await refused(client.create(new_job("c1", tenant="c"), **limits)) is ErrorReason.OVERLOADED
    await client.abort("a1")
    await client.create(new_job("c1", tenant="c"), **limits)


# Claims


async def test_claims_go_by_priority_then_age(client: Client) -> None:
    await client.create(new_job("old"), new_job("older-but-less-urgent", priority=-1), new_job("urgent", priority=5))
    await client.create(new_job("new"))
    claimed = [lease.job.id for lease in await client.claim(jobs=10)]
    assert claimed == ["urgent", "old", "new", "older-but-less-urgent"]


async def test_only_the_kinds_asked_for_are_claimed_and_in_order_of_age(client: Client) -> None:
    for kind in ("tool_b", "tool", "tool_a", "tool"):
        await client.create(new_job(kind=kind))
    assert [lease.job.kind for lease in await client.claim(kinds=["tool"], jobs=10)] == ["tool", "tool"]
    assert [lease.job.kind for lease in await client.claim(kinds=["tool_a", "tool_b"], jobs=10)] == ["tool_b", "tool_a"]


async def test_one_tenants_backlog_does_not_hold_up_anothers_first_job(client: Client) -> None:
    await client.create(*(new_job(f"a{number}") for number in range(300)))
    running = await client.claim(jobs=4)
    await client.create(new_job("b0", tenant="b"), new_job("b1", tenant="b"), new_job("c0", tenant="c"))
    claimed = [lease.job.id for lease in await client.claim(jobs=5)]
    assert claimed == ["b0", "c0", "b1", "a4", "a5"]
    assert len(running) == 4


async def test_a_claim_waits_for_work(client: Client) -> None:
    waiting = asyncio.create_task(client.claim_one(wait=20))
    await asyncio.sleep(0.05)
    await client.create(new_job("late"))
    assert (await waiting).job.id == "late"
    began = time.monotonic()
    assert await client.claim(wait=0.2) == []
    assert time.monotonic() - began >= 0.19


async def test_many_waiting_workers_share_what_arrives(client: Client) -> None:
    waiting = [asyncio.create_task(client.claim(f"w{number}", jobs=3, wait=20)) for number in range(4)]
    await asyncio.sleep(0.1)
    await client.create(*(new_job() for _ in range(4)))
    leases = [lease for claimed in await asyncio.gather(*waiting) for lease in claimed]
    assert len({lease.job.id for lease in leases}) == 4


async def test_a_lease_whose_claimer_left_goes_to_the_next_one(services: Services) -> None:
    # A reply that is on its way already cannot be called back; such a lease runs out soon.
    client = services.client(await services.start(lease_seconds=0.5))
    for number in range(20):
        gone = asyncio.create_task(client.claim("gone", wait=20))
        await asyncio.sleep(0.01)
        creation = asyncio.create_task(client.create(new_job(f"j{number}", max_attempts=20)))
        gone.cancel()
        await creation
        lease = await client.claim_one()
        assert lease.job.id == f"j{number}"
        await client.succeed(lease)


# Reports


async def test_a_report_appends_events_saves_the_checkpoint_and_renews_the_lease(client: Client) -> None:
    await client.create(new_job("j"))
    lease = await client.claim_one()
    report = jobs_pb2.JobReport(
        job_id="j", fencing_token=lease.fencing_token, events=[note(b"plan"), text("a"), text("b")], checkpoint=b"half"
    )
    response = await client.call("ReportJobs", jobs_pb2.ReportJobsRequest(worker_id="w", reports=[report]))
    assert response.results[0].expire_time.ToMicroseconds() > lease.expire_time.ToMicroseconds()
    assert (await client.get("j")).checkpoint == b"half"
    await client.succeed(lease, result=b"r", events=[text("!", "partial")])
    log = await client.log("j")
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert [about(event) for event in log] == [
        ("j", QUEUED, 0),
        ("j", RUNNING, 0),
        ("j", b"plan"),
        ("j", "ab"),
        ("j", "!"),
        ("j", SUCCEEDED, 0),
    ]
    job = await client.get("j")
    assert (job.state, job.result, job.is_partial, job.last_sequence) == (SUCCEEDED, b"r", False, 6)
    assert job.end_time.ToMicroseconds() >= job.start_time.ToMicroseconds() >= job.create_time.ToMicroseconds()


async def test_each_report_of_a_call_is_answered_on_its_own(client: Client) -> None:
    await client.create(new_job("good"), new_job("aborted"))
    good, aborted = await client.claim(jobs=2)
    await client.abort("aborted")
    reports = [
        jobs_pb2.JobReport(job_id=id_, fencing_token=token, success=jobs_pb2.Success())
        for id_, token in (
            ("good", 7),
            ("aborted", aborted.fencing_token),
            ("unknown", 1),
            ("good", good.fencing_token),
        )
    ]
    response = await client.call("ReportJobs", jobs_pb2.ReportJobsRequest(worker_id="w", reports=reports))
    assert [result.disposition for result in response.results] == [STALE, JOB_ENDED, NOT_FOUND, ACCEPTED]


async def test_a_partial_result_keeps_its_reason(client: Client) -> None:
    await client.create(new_job("j"))
    lease = await client.claim_one()
    await client.report(lease, success=jobs_pb2.Success(result=b"some", is_partial=True, reason=TIMEOUT))
    job = await client.get("j")
    assert (job.state, job.is_partial, job.end_reason, job.result) == (SUCCEEDED, True, TIMEOUT, b"some")
    last = (await client.log("j"))[-1].state_change
    assert (last.is_partial, last.reason) == (True, TIMEOUT)


async def test_an_outcome_reported_again_is_accepted_and_changes_nothing(client: Client) -> None:
    await client.create(new_job("s"), new_job("f", max_attempts=1), new_job("r"))
    succeeded, failed, released = await client.claim(jobs=3)
    for _ in range(2):
        assert await client.succeed(succeeded) == ACCEPTED
        assert await client.fail(failed) == ACCEPTED
        assert await client.release(released) == ACCEPTED
    assert [(await client.get(id_)).state for id_ in ("s", "f", "r")] == [SUCCEEDED, FAILED, QUEUED]
    assert (await client.get("r")).last_sequence == 3
    assert await client.report(released) == STALE


async def test_a_numbered_report_repeated_after_a_lost_reply_writes_its_events_once(client: Client) -> None:
    await client.create(new_job("j"))
    lease = await client.claim_one()
    for _ in range(2):
        assert await client.report(lease, events=[text("once")], report_number=1) == ACCEPTED
    await client.report(lease, events=[text("twice")], report_number=2)
    for _ in range(2):
        assert await client.succeed(lease, events=[text("thrice")], report_number=3) == ACCEPTED
    texts = [about(event)[1] for event in await client.log("j") if event.HasField("text")]
    assert texts == ["once", "twice", "thrice"]


async def test_a_failed_attempt_is_repeated_until_its_limit_and_every_error_is_kept(client: Client) -> None:
    await client.create(new_job("j", max_attempts=3))
    for attempt in (1, 2, 3):
        lease = await client.claim_one()
        assert (lease.job.attempt, len(lease.job.attempt_errors)) == (attempt, attempt - 1)
        await client.fail(lease)
    job = await client.get("j")
    assert (job.state, job.end_reason, job.error_message, job.attempt) == (FAILED, LLM_ERROR, "no luck", 3)
    assert [(error.attempt, error.reason) for error in job.attempt_errors] == [(n, LLM_ERROR) for n in (1, 2, 3)]
    states = [event.state_change.state for event in await client.log("j")]
    assert states == [QUEUED, RUNNING, QUEUED, RUNNING, QUEUED, RUNNING, FAILED]


async def test_a_failure_that_cannot_be_repeated_ends_the_job_with_what_there_is(client: Client) -> None:
    await client.create(new_job("j"))
    lease = await client.claim_one()
    await client.report(lease, failure=jobs_pb2.Failure(reason=INTERNAL_ERROR, message="m", result=b"rest"))
    job = await client.get("j")
    assert (job.state, job.result, job.error_message) == (FAILED, b"rest", "m")


async def test_an_outcome_is_kept_even_if_its_message_holds_what_no_text_may(client: Client) -> None:
    await client.create(new_job("j"), new_job("aborted"))
    failure = jobs_pb2.Failure(reason=LLM_ERROR, message="no\x00 luck")
    assert await client.report(await client.claim_one(), failure=failure) == ACCEPTED
    assert (await client.get("j")).error_message == "no luck"
    await client.abort("aborted", message="\x00enough")
    assert (await client.get("aborted")).error_message == "enough"


async def test_a_lease_given_back_costs_no_attempt_and_its_checkpoint_goes_on(client: Client) -> None:
    await client.create(new_job("j", max_attempts=1))
    for _ in range(3):
        lease = await client.claim_one()
        assert lease.job.attempt == 1
        assert await client.report(lease, checkpoint=b"half", release=jobs_pb2.Release()) == ACCEPTED
    lease = await client.claim_one()
    assert (lease.job.checkpoint, lease.fencing_token) == (b"half", 4)
    await client.succeed(lease)
    assert (await client.get("j")).state == SUCCEEDED


async def test_a_worker_reports_one_job_and_takes_the_next_in_one_call(client: Client) -> None:
    await client.create(new_job("first"), new_job("second"))
    lease = await client.claim_one()
    claim = jobs_pb2.NextClaim(kinds=["work"], max_jobs=5)
    reports = [jobs_pb2.JobReport(job_id="first", fencing_token=lease.fencing_token, success=jobs_pb2.Success())]
    request = jobs_pb2.ReportJobsRequest(worker_id="w", reports=reports, next_claim=claim)
    response = await client.call("ReportJobs", request)
    assert [result.disposition for result in response.results] == [ACCEPTED]
    assert [lease.job.id for lease in response.leases] == ["second"]
    response = await client.call("ReportJobs", request)
    assert ([result.disposition for result in response.results], list(response.leases)) == ([ACCEPTED], [])


# The end of a tree


async def test_aborting_a_root_ends_every_descendant_and_the_roots_end_comes_last(client: Client) -> None:
    await client.create(new_job("root"), claim_for_worker_id="w")
    await client.create(
        new_job("child", parent_id="root", kind="tool"),
        new_job("grandchild", parent_id="child", kind="tool"),
        new_job("done", parent_id="root", kind="other"),
    )
    await client.succeed(await client.claim_one(kinds=["other"]))
    assert await client.abort("root", message="enough") == 3
    assert await client.abort("root") == 0
    log = await client.log("root")
    assert [about(event) for event in log][-3:] == [
        ("grandchild", ABORTED, CANCELLED),
        ("child", ABORTED, CANCELLED),
        ("root", ABORTED, CANCELLED),
    ]
    assert (await client.get("root")).error_message == "enough"
    assert (await client.get("done")).state == SUCCEEDED
    assert await refused(client.abort("root", "unknown")) is ErrorReason.JOB_NOT_FOUND


async def test_when_a_job_ends_nobody_waits_for_its_children_any_more(client: Client) -> None:
    [created] = await client.create(new_job("root"), claim_for_worker_id="w")
    await client.create(new_job("child", parent_id="root", kind="tool"))
    await client.succeed(created.lease)
    assert (await client.get("child")).state == ABORTED
    assert await client.claim(kinds=["tool"]) == []


async def test_an_abort_reaches_the_worker_at_once(client: Client) -> None:
    await client.create(new_job("root"), new_job("child", parent_id="root", kind="tool"))
    lease = await client.claim_one(kinds=["tool"])
    async with stream(client.watch_stops()) as stops:
        assert (await anext(stops)).job_id == ""
        began = time.monotonic()
        await client.abort("root")
        stop = await anext(stops)
        assert time.monotonic() - began < 5
    assert (stop.job_id, stop.fencing_token, stop.reason) == ("child", lease.fencing_token, CANCELLED)
    assert await client.succeed(lease) == JOB_ENDED


async def test_stops_that_came_while_nobody_watched_are_repeated(client: Client) -> None:
    await client.create(new_job("j"))
    await client.claim_one()
    await client.abort("j")
    async with stream(client.watch_stops()) as stops:
        assert [(await anext(stops)).job_id, (await anext(stops)).job_id] == ["", "j"]


# Reads


async def test_a_job_is_read_as_it_was_or_as_it_is_while_it_ends(client: Client) -> None:
    states: list[int] = []

    async def look(id_: str) -> None:
        while not states or states[-1] != SUCCEEDED:
            states.extend([(await client.get(id_)).state, (await client.list_jobs(job_ids=[id_])).jobs[0].state])

    for number in range(60):
        states.clear()
        [created] = await client.create(new_job(f"j{number}"), claim_for_worker_id="w")
        looking = [asyncio.create_task(look(f"j{number}")) for _ in range(3)]
        await client.succeed(created.lease)
        await asyncio.gather(*looking)
        assert set(states) <= {RUNNING, SUCCEEDED}


async def test_jobs_are_listed_newest_first_in_pages(client: Client) -> None:
    await client.create(*(new_job(f"j{number}") for number in range(5)))
    first = await client.list_jobs(page_size=2)
    second = await client.list_jobs(page_size=2, page_token=first.next_page_token)
    third = await client.list_jobs(page_size=2, page_token=second.next_page_token)
    pages = [[job.id for job in page.jobs] for page in (first, second, third)]
    assert pages == [["j4", "j3"], ["j2", "j1"], ["j0"]]
    assert third.next_page_token == ""


async def test_lists_can_be_narrowed(client: Client) -> None:
    before = now()
    await client.create(
        new_job("a", payload=b"p"), new_job("a.1", parent_id="a", kind="tool"), new_job("b", tenant="b")
    )
    await client.claim_one(kinds=["tool"])
    await client.abort("b")

    async def ids(**fields: object) -> set[str]:
        return {job.id for job in (await client.list_jobs(**fields)).jobs}

    assert await ids(root_id="a") == {"a", "a.1"}
    assert await ids(roots_only=True) == {"a", "b"}
    assert await ids(tenant="b") == {"b"}
    assert await ids(kinds=["tool"]) == {"a.1"}
    assert await ids(states=[QUEUED]) == {"a"}
    assert await ids(states=[RUNNING, ABORTED]) == {"a.1", "b"}
    later = jobs_pb2.ListJobsRequest()
    later.created_before.FromMicroseconds(before)
    assert await ids(created_before=later.created_before) == set()
    assert await ids(created_after=later.created_before) == {"a", "a.1", "b"}
    [job] = (await client.list_jobs(root_id="a", roots_only=True, omit_content=True)).jobs
    assert job.payload == b""


async def test_jobs_are_read_by_id_and_without_what_makes_them_large(client: Client) -> None:
    await client.create(new_job("a", payload=b"asked"), new_job("b"), new_job("c"))
    lease = await client.claim_one()
    assert lease.job.id == "a"
    success = jobs_pb2.Success(result=b"found")
    assert await client.report(lease, checkpoint=b"half", success=success) == ACCEPTED
    listed = (await client.list_jobs(job_ids=["c", "a", "nobody"])).jobs
    assert [(job.id, job.payload, job.result, job.checkpoint) for job in listed if job.id == "a"] == [
        ("a", b"asked", b"found", b"half")
    ]
    assert {job.id for job in listed} == {"a", "c"}
    [job] = (await client.list_jobs(job_ids=["a"], omit_outcome=True)).jobs
    assert (job.payload, job.result, job.checkpoint) == (b"asked", b"", b"")


async def test_the_audit_log_is_chained_and_grows_after_the_end(client: Client) -> None:
    await client.create(new_job("root"))
    assert await refused(audit(client, "nobody", "{}")) is ErrorReason.JOB_NOT_FOUND
    for _ in range(2):  # the second time after a lost reply
        assert await audit(client, "root", '{"n":1}', '{"n":2}', append_id="one") == 2
    await client.abort("root")
    assert await audit(client, "root", '{"n":3}') == 3
    first = await client.call("ListAuditRecords", jobs_pb2.ListAuditRecordsRequest(root_id="root", page_size=2))
    request = jobs_pb2.ListAuditRecordsRequest(root_id="root", page_token=first.next_page_token)
    rest = await client.call("ListAuditRecords", request)
    records = [*first.records, *rest.records]
    assert [record.record_json for record in records] == ['{"n":1}', '{"n":2}', '{"n":3}']
    assert records[0].previous_hash == "0" * 64
    assert [record.previous_hash for record in records[1:]] == [record.hash for record in records[:-1]]


async def audit(client: Client, root_id: str, *records: str, append_id: str = "") -> int:
    request = jobs_pb2.AppendAuditRecordsRequest(
        root_id=root_id,
        append_id=append_id,
        records=[jobs_pb2.AuditRecord(job_id=root_id, record_json=record) for record in records],
    )
    return int((await client.call("AppendAuditRecords", request)).last_sequence)


async def test_stats_count_jobs_by_kind(client: Client) -> None:
    await client.create(new_job(), new_job(), new_job(delay=60), new_job(kind="tool"))
    await client.claim_one()
    await client.succeed(await client.claim_one(kinds=["tool"]))
    stats = await client.call("GetQueueStats", jobs_pb2.GetQueueStatsRequest())
    [work] = stats.kinds
    assert (work.kind, work.due, work.delayed, work.running) == ("work", 1, 1, 1)
    assert work.HasField("oldest_due_age")


async def test_a_sqlite_file_belongs_to_one_service_at_a_time(tmp_path: Path) -> None:
    async with Services(f"sqlite:///{tmp_path}/jobs.sqlite") as services:
        service = await services.start()
        with pytest.raises(StartupError, match="another process"):
            await services.start()
        await service.stop()
        await services.start()
