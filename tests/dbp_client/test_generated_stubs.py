"""The generated stubs as a team without our SDK uses them: synchronously, against the contract alone.

`grpcio-testing` knows synchronous stubs only, and no interceptors; so it is right for this and for nothing else here.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import grpc_testing
from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from grpc import StatusCode

SERVICE = coordinator_pb2.DESCRIPTOR.services_by_name["CoordinatorService"]


def ask(stub: coordinator_pb2_grpc.CoordinatorServiceStub, query: str) -> str:
    """The answer of a request, as in any backend that calls the service."""
    request = coordinator_pb2.ProcessRequestRequest(query=query)
    request.max_duration.FromSeconds(30)
    for response in stub.ProcessRequest(request, timeout=31):
        if response.event.HasField("result"):
            return response.event.result.answer
    raise AssertionError("a stream ends with a result")


def test_a_synchronous_stub_asks_and_reads_to_the_result() -> None:
    channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
    with ThreadPoolExecutor(1) as threads:
        answer: Future[str] = threads.submit(ask, coordinator_pb2_grpc.CoordinatorServiceStub(channel), "Where?")
        method = SERVICE.methods_by_name["ProcessRequest"]
        _, request, server = channel.take_unary_stream(method)
        assert (request.query, request.max_duration.seconds) == ("Where?", 30)
        server.send_initial_metadata(())
        for event in (
            coordinator_pb2.RequestEvent(sequence=1, accepted=coordinator_pb2.RequestAccepted(request_id="r")),
            coordinator_pb2.RequestEvent(sequence=2, result=coordinator_pb2.RequestResult(answer="there")),
        ):
            server.send_response(coordinator_pb2.ProcessRequestResponse(event=event))
        server.terminate((), StatusCode.OK, "")
        assert answer.result(10) == "there"
