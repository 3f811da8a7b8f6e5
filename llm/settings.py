"""Settings of the model gateway and the instances: environment `DBP_LLM_*`, table `[llm]`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_common.settings import Settings


class LlmSettings(Settings):
    """Read by every process that runs LLM instances. Credentials, region and endpoint are boto3's own (AWS_*)."""

    model_config = SettingsConfigDict(env_prefix="DBP_LLM_")
    table = "llm"

    catalogue: Path | None = Field(
        None, description="TOML file whose models and roles add to, or replace, those of llm/catalogue.toml"
    )
    roles: dict[str, list[str]] = Field(
        default_factory=dict, description="model ids by role, first choice first; in the environment as JSON"
    )
    region: str = Field("", description="AWS region; empty: boto3's own choice, us-east-1 where it has none")

    concurrent_calls: int = Field(
        64, gt=0, le=1000, description="model calls at once, all models: threads, connections"
    )
    concurrent_calls_per_model: int = Field(32, gt=0, le=1000, description="model calls at once to one model")
    connect_seconds: float = Field(3.0, gt=0, le=60, description="longest wait for a connection")
    first_event_seconds: float = Field(60.0, gt=0, le=900, description="longest wait for a response to begin")
    stall_seconds: float = Field(20.0, gt=0, le=900, description="longest pause between two events of a response")
    usage_seconds: float = Field(
        2.0,
        ge=0,
        le=60,
        description="how long the usage of a finished answer is waited for; then it is charged in full",
    )

    attempts_per_model: int = Field(3, gt=0, le=10, description="tries at one model before the next one is taken")
    backoff_seconds: float = Field(
        0.2, gt=0, le=60, description="longest pause after a first failure; doubles each time"
    )
    backoff_max_seconds: float = Field(5.0, gt=0, le=60, description="where the doubling ends")
    unusable_seconds: float = Field(
        300.0, ge=0, description="how long a model that is gone or forbidden is passed over without asking it"
    )

    conclusion_share: float = Field(
        0.15, ge=0, lt=0.9, description="part of an instance's time kept for its conclusion"
    )
    conclusion_seconds_min: float = Field(1.0, ge=0, description="least of it, if there is twice as much time in all")
    conclusion_seconds_max: float = Field(15.0, gt=0, description="most of it")
    return_margin_seconds: float = Field(
        0.15, ge=0, le=5, description="how long before its deadline an instance returns"
    )
    conclusion_max_tokens: int = Field(700, gt=0, le=32_768, description="longest output of a conclusion")
    useful_output_tokens: int = Field(
        256, gt=0, description="when money is left for fewer, a call is not worth making: the instance concludes"
    )
    tool_calls_per_turn: int = Field(16, gt=0, le=256, description="further calls in the same turn are refused")

    charge_lease_seconds: float = Field(
        60.0, ge=3, le=900, description="lease of a charge; renewed while its call runs"
    )
    budget_patience_seconds: float = Field(
        5.0, ge=0, description="how long a budget service that is away is waited for before a call"
    )
    settling_seconds: float = Field(
        30.0,
        gt=0,
        le=300,
        description="how long settling a charge is tried; less than its lease, after which it counts in full",
    )
    audit_content: bool = Field(
        False, description="keep what was said in the audit log, secrets masked; else hashes only"
    )
