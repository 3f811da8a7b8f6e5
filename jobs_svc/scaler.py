"""KEDA's ExternalScaler: how much work there is for the workers of some kinds of jobs, from counters in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from externalscaler import externalscaler_pb2, externalscaler_pb2_grpc

from jobs_svc.counters import Counters
from svc_common.errors import invalid_field
from svc_common.server_interceptor import Context

METRIC = "jobs"
DEFAULT_JOBS_PER_WORKER = 4.0
# Jobs that workers run themselves when they create them; no worker is started for them.
_NOT_SCALED = frozenset({"coordinate"})


class ScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def IsActive(
        self, request: externalscaler_pb2.ScaledObjectRef, context: Context
    ) -> externalscaler_pb2.IsActiveResponse:
        return externalscaler_pb2.IsActiveResponse(result=self._work(request) > 0)

    async def StreamIsActive(
        self, request: externalscaler_pb2.ScaledObjectRef, context: Context
    ) -> AsyncIterator[externalscaler_pb2.IsActiveResponse]:
        with self._counters.watch() as grown:
            while True:
                grown.clear()
                if self._work(request) > 0:
                    yield externalscaler_pb2.IsActiveResponse(result=True)
                await grown.wait()

    async def GetMetricSpec(
        self, request: externalscaler_pb2.ScaledObjectRef, context: Context
    ) -> externalscaler_pb2.GetMetricSpecResponse:
        target = _jobs_per_worker(request.scalerMetadata)
        spec = externalscaler_pb2.MetricSpec(
            metricName=METRIC, targetSize=max(1, round(target)), targetSizeFloat=target
        )
        return externalscaler_pb2.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(
        self, request: externalscaler_pb2.GetMetricsRequest, context: Context
    ) -> externalscaler_pb2.GetMetricsResponse:
        work = self._work(request.scaledObjectRef)
        value = externalscaler_pb2.MetricValue(
            metricName=request.metricName or METRIC, metricValue=work, metricValueFloat=float(work)
        )
        return externalscaler_pb2.GetMetricsResponse(metricValues=[value])

    def _work(self, request: externalscaler_pb2.ScaledObjectRef) -> int:
        """Due and leased jobs together: with the due ones alone, busy workers would be scaled in."""
        named = request.scalerMetadata.get("kinds", "")
        kinds: Any = [kind.strip() for kind in named.split(",") if kind.strip()]
        counts = [self._counters.of(kind) for kind in kinds or set(self._counters.kinds) - _NOT_SCALED]
        return sum(count.due + count.running for count in counts)


def _jobs_per_worker(metadata: Mapping[str, str]) -> float:
    given = metadata.get("jobsPerWorker", "")
    try:
        target = float(given) if given else DEFAULT_JOBS_PER_WORKER
    except ValueError as error:
        raise invalid_field("scalerMetadata[jobsPerWorker]", "must be a number") from error
    if not 0 < target < 1e6:
        raise invalid_field("scalerMetadata[jobsPerWorker]", "must be greater than 0 and less than 1,000,000")
    return target
