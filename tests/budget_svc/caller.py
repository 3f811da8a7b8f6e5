"""A process of the chaos: pays for model calls and makes them, until its budget is used up or it is killed.

python -m tests.budget_svc.caller BUDGET_ADDRESS BEDROCK_URL NAME BUDGET_ID
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from dbp.budget.v1 import budget_pb2_grpc

from llm.metering import BudgetMeter, Denied, Reservation
from svc_common.channel import open_channel
from svc_common.errors import ErrorReason, ServiceError
from svc_common.settings import CommonSettings
from svc_common.tokens import TokenUsage

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

MODEL = "amazon.nova-lite-v1:0"
MAX_INPUT, MAX_OUTPUT = 1000, 100
LEASE_SECONDS = 0.5
_AT_ONCE = 4
_PATIENCE_SECONDS = 60


async def spend(meter: BudgetMeter, bedrock: BedrockRuntimeClient, name: str, budget_id: str) -> None:
    """Makes one paid call after the other until the budget has no room left."""
    for number in count():
        charge_id = f"{name}.{number}"
        try:
            await meter.reserve(
                Reservation(charge_id, budget_id, MODEL, MAX_INPUT, MAX_OUTPUT, False, 0, 0.2, LEASE_SECONDS)
            )
        except Denied as denied:
            if denied.reason is ErrorReason.BUDGET_EXCEEDED:
                return
            continue
        except ServiceError as error:
            if error.reason is not ErrorReason.CHARGE_STATE:  # its lease ended before the answer came through
                raise
            continue
        await meter.settle(charge_id, await asyncio.to_thread(ask, bedrock, name))


def ask(bedrock: BedrockRuntimeClient, name: str) -> TokenUsage:
    response = bedrock.converse(
        modelId=MODEL,
        messages=[{"role": "user", "content": [{"text": f"Go on, {name}."}]}],
        inferenceConfig={"maxTokens": MAX_OUTPUT},
    )
    return TokenUsage(response["usage"]["inputTokens"], response["usage"]["outputTokens"])


async def main(budget_address: str, bedrock_url: str, name: str, budget_id: str) -> None:
    channel = open_channel(budget_address, CommonSettings())
    meter = BudgetMeter(budget_pb2_grpc.BudgetServiceStub(channel), patience=_PATIENCE_SECONDS)
    bedrock = boto3.client(
        "bedrock-runtime",
        endpoint_url=bedrock_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )
    async with asyncio.TaskGroup() as group:
        for number in range(_AT_ONCE):
            group.create_task(spend(meter, bedrock, f"{name}.{number}", budget_id))
    await channel.close(None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
