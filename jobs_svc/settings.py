"""Settings of jobs_svc."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic_settings import SettingsConfigDict

from jobs_svc.policy import Policy
from svc_common.settings import ListenAddress, ServiceSettings
from svc_common.times import MICROS


class JobsSettings(ServiceSettings):
    """The table `[jobs]`, and `DBP_JOBS_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="DBP_JOBS_")
    table = "jobs"

    listen: ListenAddress = "127.0.0.1:8811"
    database_url: str = Field(
        "sqlite:///.dbp/jobs.sqlite", repr=False, description="sqlite:///path of a file, or postgresql://..."
    )
    lease_seconds: float = Field(
        6.0,
        ge=0.1,
        le=3600,
        description="how long a lease lasts without a report; a killed worker's jobs wait this long",
    )
    retry_delay_seconds: float = Field(
        0.5, ge=0, le=3600, description="delay after a job's first failed attempt; it doubles with each further one"
    )
    max_retry_delay_seconds: float = Field(30.0, ge=0, le=86400, description="longest delay between attempts")
    max_attempts: int = Field(3, ge=1, le=20, description="attempts at jobs that do not say how many they may have")
    kind_limits: dict[str, NonNegativeInt] = Field(
        default_factory=dict,
        description='jobs of a kind that may run at once, e.g. {"read_files": 8}; "*": each other kind',
    )
    tenant_limits: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="jobs of a kind that may run at once for each tenant, in the same form"
    )

    tenant_limit: PositiveInt | None = Field(
        None,
        description="jobs of all kinds together that may run at once for each tenant; it must leave room for the requests"
        " themselves, which run while they wait for their tools",
    )

    retention_seconds: float = Field(
        7 * 86400.0,
        ge=0,
        description="how long trees of jobs, their events and audit logs are kept after their root ended",
    )
    retention_interval_seconds: float = Field(60.0, gt=0, le=86400, description="how often old trees are looked for")
    poll_only: bool = Field(
        False,
        description="PostgreSQL: learn what other replicas did by polling alone, as PgBouncer in transaction mode needs",
    )
    signals_database_url: str = Field(
        "", repr=False, description="PostgreSQL: a direct connection for LISTEN and NOTIFY beside a pooled database_url"
    )
    poll_seconds: float = Field(
        0.0, ge=0, le=60, description="PostgreSQL: time between polls; 0: 1 s beside signals, 0.05 s with poll_only"
    )

    @property
    def is_pooled(self) -> bool:
        """Whether database_url leads to PgBouncer."""
        return self.poll_only or bool(self.signals_database_url)

    def policy(self) -> Policy:
        lease = _micros(self.lease_seconds)
        return Policy(
            lease_time=lease,
            heartbeat_interval=lease // 3,
            retry_delay=_micros(self.retry_delay_seconds),
            max_retry_delay=_micros(self.max_retry_delay_seconds),
            default_max_attempts=self.max_attempts,
            kind_limits=self.kind_limits,
            tenant_limits=self.tenant_limits,
            tenant_limit=self.tenant_limit,
        )


def _micros(seconds: float) -> int:
    return round(seconds * MICROS)
