"""Settings of the local Bedrock endpoint: environment `DBP_BEDROCK_LOCAL_*`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_common.settings import Settings

BUNDLED_MODEL_ID = "local.smollm2-135m"


class LocalBedrockSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="DBP_BEDROCK_LOCAL_")
    table = "bedrock_local"

    host: str = Field("127.0.0.1", description="address to bind; loopback unless set")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8790, description="TCP port; 0 takes a free one")
    backend: Literal["llama", "script"] = Field("llama", description="what answers: the bundled model or a script")
    script: str = Field("", description="script backend: a YAML file, or `package.module:function`")
    models: tuple[str, ...] = Field(
        ("amazon.nova*", "anthropic.claude*", BUNDLED_MODEL_ID),
        description="known model ids as globs, matched without region prefix or inference-profile ARN",
    )
    default_max_tokens: Annotated[int, Field(ge=1)] = Field(4096, description="where a call sends no maxTokens")
    cache_min_tokens: Annotated[int, Field(ge=0)] = Field(1024, description="shortest prefix a cachePoint caches")
    invoice_records: Annotated[int, Field(ge=1)] = Field(100_000, description="newest calls the invoice keeps")
    prompt_tokens: Annotated[int, Field(ge=100, le=800)] = Field(
        140, description="llama backend: tokens the bundled model reads of a call at most"
    )
