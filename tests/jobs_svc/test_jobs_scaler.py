"""What KEDA is told."""

from __future__ import annotations

import asyncio

import pytest
from externalscaler import externalscaler_pb2, externalscaler_pb2_grpc

from svc_common.channel import call, stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.settings import CommonSettings
from tests.jobs_svc.client import Client, Services, new_job


def workers(**metadata: str) -> externalscaler_pb2.ScaledObjectRef:
    return externalscaler_pb2.ScaledObjectRef(name="workers", namespace="dbp", scalerMetadata=metadata)


def scaler(client: Client) -> externalscaler_pb2_grpc.ExternalScalerAsyncStub:
    return externalscaler_pb2_grpc.ExternalScalerStub(client.channel)


async def load(client: Client, **metadata: str) -> int:
    request = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=workers(**metadata), metricName="jobs")
    [value] = (await call(scaler(client).GetMetrics, request)).metricValues
    assert value.metricValueFloat == value.metricValue
    return value.metricValue


async def test_the_load_is_due_and_leased_jobs_together_of_the_kinds_asked_for(client: Client) -> None:
    await client.create(new_job(kind="coordinate"), new_job(kind="a"), new_job(kind="a"), new_job(kind="b"))
    await client.create(new_job(kind="b", delay=60))
    lease = await client.claim_one(kinds=["a"])
    assert [await load(client), await load(client, kinds="a"), await load(client, kinds="b, coordinate")] == [3, 2, 2]
    await client.succeed(lease)
    assert await load(client, kinds="a") == 1


async def test_work_is_announced_as_it_arrives(client: Client) -> None:
    request = workers(kinds="tool")
    assert not (await call(scaler(client).IsActive, request)).result
    async with stream(scaler(client).StreamIsActive(request)) as activity:
        next_activity = asyncio.ensure_future(anext(activity))
        await client.create(new_job(kind="other"))
        await client.create(new_job(kind="tool"))
        async with asyncio.timeout(10):
            assert (await next_activity).result
    assert (await call(scaler(client).IsActive, request)).result


async def test_the_target_per_worker_comes_from_the_trigger(client: Client) -> None:
    [spec] = (await call(scaler(client).GetMetricSpec, workers(jobsPerWorker="2.5"))).metricSpecs
    assert (spec.targetSize, spec.targetSizeFloat) == (2, 2.5)
    with pytest.raises(ServiceError) as caught:
        await call(scaler(client).GetMetricSpec, workers(jobsPerWorker="many"))
    assert caught.value.reason is ErrorReason.INVALID_ARGUMENT


async def test_keda_needs_no_token_and_everybody_else_does(services: Services) -> None:
    service = await services.start(common=CommonSettings(auth_token="right"))
    client = services.client(service)
    assert not (await call(scaler(client).IsActive, workers())).result
    with pytest.raises(ServiceError) as caught:
        await client.claim()
    assert caught.value.reason is ErrorReason.UNAUTHENTICATED
