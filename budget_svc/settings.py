"""Settings of budget_svc: environment `DBP_BUDGET_*`, table [budget] of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from budget_svc.rates import ModelQuota
from budget_svc.tenants import Period, Tenants, TenantTerms
from svc_common.money import MAX_PICO_USD, parse_usd
from svc_common.settings import ListenAddress, ServiceSettings


def _pico_usd(value: Any) -> Any:
    return parse_usd(value) if isinstance(value, str) else value


Usd = Annotated[int, BeforeValidator(_pico_usd), Field(ge=0, le=MAX_PICO_USD)]
"""An amount written as text in US dollars ("0.05"); a whole number is taken as pico-USD."""


class TenantSettings(BaseModel):
    """What a tenant may spend in each period. A budget that exists keeps its terms: new ones hold from the next period on, and
    where there is none (period "none") AdjustBudget changes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period: Period = Field(Period.DAY, description="day, month or none: when a new limit begins, in UTC")
    limit_usd: Usd = Field(100 * 10**12, description="what may be spent in one period")
    conclusion_reserve_usd: Usd = Field(0, description="part of the limit for calls by which an instance concludes")
    token_quota: int = Field(0, ge=0, description="tokens that may be used in one period; 0 is no quota")

    @model_validator(mode="after")
    def _reserve_fits(self) -> TenantSettings:
        if self.conclusion_reserve_usd > self.limit_usd:
            raise ValueError("conclusion_reserve_usd must be at most limit_usd")
        return self

    def terms(self) -> TenantTerms:
        return TenantTerms(self.period, self.limit_usd, self.conclusion_reserve_usd, self.token_quota)


class RateSettings(BaseModel):
    """What Bedrock lets the account send to a model; 0 is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)

    def quota(self) -> ModelQuota:
        return ModelQuota(self.requests_per_minute, self.tokens_per_minute)


class BudgetSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="DBP_BUDGET_")
    table = "budget"

    listen: ListenAddress = "127.0.0.1:8812"
    database_url: str = Field("sqlite:///.dbp/budget.sqlite", description="sqlite:///path or postgresql://...")
    pooled: bool = Field(False, description="PostgreSQL: database_url leads to PgBouncer in transaction mode")
    price_file: Path | None = Field(None, description="a price file to use instead of the bundled one")
    model_aliases: dict[str, str] = Field(
        default_factory=dict, description="ids of the account's own (ARNs of its inference profiles) to listed ids"
    )
    default_tenant: TenantSettings = Field(
        default_factory=lambda: TenantSettings(),
        description="of tenants not named below; a period that has begun keeps its terms, which AdjustBudget may change",
    )
    tenants: dict[str, TenantSettings] = Field(default_factory=dict, description="by name")
    model_rates: dict[str, RateSettings] = Field(
        default_factory=dict, description="quotas by model or inference-profile id; a model without one has none"
    )
    sweep_seconds: float = Field(0.5, gt=0, le=60, description="how often ended leases are looked for")
    poll_seconds: float = Field(
        0.25, gt=0, le=60, description="how often those who wait look for what other replicas or the time brought"
    )
    retention_days: int = Field(
        90, ge=0, le=3650, description="ended charges older than this become daily totals; 0 keeps them for ever"
    )
    fold_seconds: float = Field(3600, gt=0, description="how often charges that old are looked for")

    def tenant_terms(self) -> Tenants:
        return Tenants(self.default_tenant.terms(), {name: own.terms() for name, own in self.tenants.items()})

    def quotas(self) -> dict[str, ModelQuota]:
        return {model_id: rate.quota() for model_id, rate in self.model_rates.items()}
