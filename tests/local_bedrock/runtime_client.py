"""The real boto3 client these tests call the endpoint with."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient


@functools.cache
def _session() -> boto3.Session:  # reads the service model once for all clients
    return boto3.Session(aws_access_key_id="AKIDANY", aws_secret_access_key="any", region_name="us-east-1")


def runtime_client(url: str, read_timeout: float = 20) -> BedrockRuntimeClient:
    """A client of the endpoint that tries each call once."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=read_timeout, connect_timeout=5)
    return _session().client("bedrock-runtime", endpoint_url=url, config=config)
