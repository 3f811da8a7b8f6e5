"""The domain's names and the contract's are the same."""

from __future__ import annotations

from dbp.common.v1 import common_pb2, error_reason_pb2

from svc_common.endings import EndReason, JobState
from svc_common.errors import ErrorReason
from svc_common.status import CODES


def test_error_reasons_are_those_of_the_contract_and_each_has_a_status() -> None:
    contract = {name.removeprefix("ERROR_REASON_") for name in dict(error_reason_pb2.ErrorReason.items())}
    assert {reason.value for reason in ErrorReason} == contract - {"UNSPECIFIED"}
    assert set(CODES) == set(ErrorReason)


def test_states_and_end_reasons_are_those_of_the_contract() -> None:
    states = {f"JOB_STATE_{state.name}": state.value for state in JobState} | {"JOB_STATE_UNSPECIFIED": 0}
    assert states == dict(common_pb2.JobState.items())
    reasons = {f"END_REASON_{reason.name}": reason.value for reason in EndReason if reason} | {
        "END_REASON_UNSPECIFIED": 0
    }
    assert reasons == dict(common_pb2.EndReason.items())
