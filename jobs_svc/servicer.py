"""JobsService over gRPC: parses, calls the queue, formats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from jobs_svc import wire
from jobs_svc.audit import AppendAudit, AuditEntry
from jobs_svc.operations import AbortJobs, CreateJobs
from jobs_svc.policy import Policy
from jobs_svc.queue import JobQueue
from jobs_svc.reads import parse_position
from jobs_svc.turns import Claimer
from svc_common.endings import EndReason
from svc_common.server_interceptor import Context
from svc_common.times import MICROS, from_duration, to_duration

DEFAULT_PAGE_SIZE = 50


class JobsServicer(jobs_pb2_grpc.JobsServiceServicer):
    def __init__(self, queue: JobQueue, policy: Policy) -> None:
        self._queue = queue
        self._heartbeat_interval = to_duration(policy.heartbeat_interval)

    async def CreateJobs(self, request: jobs_pb2.CreateJobsRequest, context: Context) -> jobs_pb2.CreateJobsResponse:
        created = await self._queue.create(
            CreateJobs(
                jobs=[wire.new_job_from(job) for job in request.jobs],
                claim_for=request.claim_for_worker_id,
                claim_id=request.claim_id,
                max_unfinished_roots_of_tenant=request.max_unfinished_roots_of_tenant,
                max_unfinished_roots=request.max_unfinished_roots,
            )
        )
        return jobs_pb2.CreateJobsResponse(jobs=[wire.created_to(job) for job in created])

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        return jobs_pb2.GetJobResponse(job=wire.job_to(await self._queue.reads.job(request.job_id)))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        page_size = request.page_size or DEFAULT_PAGE_SIZE
        jobs, token = await self._queue.reads.list_jobs(wire.filter_from(request), page_size, request.page_token)
        return jobs_pb2.ListJobsResponse(jobs=[wire.job_to(job) for job in jobs], next_page_token=token)

    async def ClaimJobs(self, request: jobs_pb2.ClaimJobsRequest, context: Context) -> jobs_pb2.ClaimJobsResponse:
        claimer = Claimer(request.worker_id, frozenset(request.kinds), request.max_jobs or 1, request.claim_id)
        leases = await self._queue.claim(claimer, from_duration(request.max_wait) / MICROS)
        return jobs_pb2.ClaimJobsResponse(
            leases=[wire.lease_to(lease) for lease in leases], heartbeat_interval=self._heartbeat_interval
        )

    async def RetireWorker(
        self, request: jobs_pb2.RetireWorkerRequest, context: Context
    ) -> jobs_pb2.RetireWorkerResponse:
        self._queue.retire(request.worker_id)
        return jobs_pb2.RetireWorkerResponse()

    async def ReportJobs(self, request: jobs_pb2.ReportJobsRequest, context: Context) -> jobs_pb2.ReportJobsResponse:
        claimer = None
        if request.HasField("next_claim"):
            claim = request.next_claim
            claimer = Claimer(request.worker_id, frozenset(claim.kinds), claim.max_jobs or 1, claim.claim_id)
        taken = await self._queue.report([wire.report_from(report) for report in request.reports], claimer)
        return jobs_pb2.ReportJobsResponse(
            results=[wire.reported_to(reported) for reported in taken.reported],
            leases=[wire.lease_to(lease) for lease in taken.leases],
        )

    async def WatchStops(
        self, request: jobs_pb2.WatchStopsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.WatchStopsResponse]:
        async with aclosing(self._queue.watch_stops(request.worker_id)) as watch:
            async for stops in watch:
                for response in [wire.stop_to(stop) for stop in stops] or [jobs_pb2.WatchStopsResponse()]:
                    yield response

    async def AbortJobs(self, request: jobs_pb2.AbortJobsRequest, context: Context) -> jobs_pb2.AbortJobsResponse:
        reason = EndReason(request.reason) or EndReason.CANCELLED
        count = await self._queue.abort(AbortJobs(list(request.job_ids), reason, wire.storable(request.message)))
        return jobs_pb2.AbortJobsResponse(aborted_count=count)

    async def WatchEvents(
        self, request: jobs_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.WatchEventsResponse]:
        async with aclosing(self._queue.watch_log(request.root_id, request.after_sequence)) as log:
            async for events in log:
                for response in wire.events_to(events):
                    yield response

    async def AppendAuditRecords(
        self, request: jobs_pb2.AppendAuditRecordsRequest, context: Context
    ) -> jobs_pb2.AppendAuditRecordsResponse:
        entries = [AuditEntry(record.job_id, record.record_json) for record in request.records]
        last = await self._queue.append_audit(AppendAudit(request.root_id, entries, request.append_id))
        return jobs_pb2.AppendAuditRecordsResponse(last_sequence=last)

    async def ListAuditRecords(
        self, request: jobs_pb2.ListAuditRecordsRequest, context: Context
    ) -> jobs_pb2.ListAuditRecordsResponse:
        page_size = request.page_size or DEFAULT_PAGE_SIZE
        after = parse_position(request.page_token or "0")
        records = await self._queue.reads.audit_log(request.root_id, after, page_size + 1)
        token = str(records[page_size - 1].sequence) if len(records) > page_size else ""
        return jobs_pb2.ListAuditRecordsResponse(
            records=[wire.audit_record_to(record) for record in records[:page_size]], next_page_token=token
        )

    async def GetQueueStats(
        self, request: jobs_pb2.GetQueueStatsRequest, context: Context
    ) -> jobs_pb2.GetQueueStatsResponse:
        response = jobs_pb2.GetQueueStatsResponse()
        ages = await self._queue.oldest_due_ages()
        for kind in self._queue.counters.kinds:
            counts = self._queue.counters.of(kind)
            age = to_duration(ages[kind]) if kind in ages else None
            response.kinds.add(
                kind=kind, due=counts.due, delayed=counts.delayed, running=counts.running, oldest_due_age=age
            )
        return response
