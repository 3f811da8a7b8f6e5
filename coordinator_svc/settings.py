"""Settings of coordinator_svc."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_common.settings import ListenAddress, ServiceSettings


class CoordinatorSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="DBP_COORDINATOR_")
    table = "coordinator"

    listen: ListenAddress = "127.0.0.1:8810"
    prompts_dir: Path = Field(Path("doc/llm/prompts"), description="folder of the prompt templates")
    running_requests: int = Field(64, gt=0, le=10_000, description="requests that this process runs at the same time")
    max_requests: int = Field(1000, ge=0, description="unfinished requests in all; 0 is no limit")
    max_requests_of_tenant: int = Field(200, ge=0, description="unfinished requests of one tenant; 0 is no limit")
    default_seconds: float = Field(30.0, ge=1, le=300, description="time of a request that states none")
    reply_margin_seconds: float = Field(
        0.1, ge=0, le=5, description="how long before the caller's deadline the request's own one lies"
    )
    answer_share: float = Field(
        0.25, gt=0, lt=0.9, description="part of a request's time that jobs leave for the answer"
    )
    answer_seconds_max: float = Field(30.0, gt=0, description="most seconds that jobs leave for the answer")
    conclusion_share: float = Field(
        0.1, ge=0, lt=0.9, description="part of a request's budget that is held back for its conclusion"
    )
    result_seconds: float = Field(
        0.25, ge=0, le=10, description="what is kept of a request's time for putting its result together"
    )
    answer_max_tokens: int = Field(2048, gt=0, le=64_000, description="longest answer, in tokens")
    catalogue_seconds: float = Field(15.0, gt=0, description="how long lists of workspaces and tools are remembered")
    service_patience_seconds: float = Field(
        10.0, ge=0, description="how long a running request waits for jobs_svc, budget_svc or tool_svc to come back"
    )
