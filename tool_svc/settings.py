"""Settings of tool_svc: environment `DBP_TOOL_*`, table `[tool]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from svc_common.settings import ListenAddress, ServiceSettings
from tool_svc.engine import Limits
from tool_svc.prepare_process import Surroundings


def _parse_workspaces(value: object) -> object:
    """Reads the spellings of the environment, `name=folder,name=folder` for people and a JSON object for any folder's name."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise ValueError("must be name=folder, several separated by commas")
    return {name.strip(): folder.strip() for name, _, folder in pairs}


WorkspaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ToolServiceSettings(ServiceSettings):
    """One process is a gRPC service, a worker that pulls jobs, or both."""

    model_config = SettingsConfigDict(env_prefix="DBP_TOOL_")
    table = "tool"

    listen: ListenAddress = "127.0.0.1:8813"
    role: Literal["service", "worker", "both"] = Field(
        "both", description="what this process does; a worker serves nothing but health on its address"
    )
    workspaces: Annotated[dict[WorkspaceName, str], NoDecode, BeforeValidator(_parse_workspaces)] = Field(
        default_factory=lambda: {"default": "."},
        min_length=1,
        description="root folder of each workspace by its name; in the environment name=folder,name=folder or JSON",
    )
    cache_dir: Path = Field(Path(".dbp/cache"), description="where indexes and results are kept; safe to delete")
    prompts_dir: Path = Field(Path("doc/llm/prompts"), description="folder of the prompt templates")
    concurrency: int = Field(4, gt=0, le=256, description="jobs at once; direct calls have as many slots of their own")
    file_threads: int = Field(4, gt=0, le=64, description="threads that look for changed files and read them")
    prepare_processes: int = Field(
        2, gt=0, le=64, description="processes that prepare contexts; one more comes for each that takes over a second"
    )
    prepare_memory_mb: int = Field(
        1024, ge=128, description="address space of each of these processes; a tool that needs more fails"
    )
    embeddings: str = Field(
        "",
        pattern=r"^([\w.]+:\w+)?$",
        description="module:function that turns texts into vectors, to rank files by meaning, too; by default they are not",
    )
    max_output_tokens: int = Field(2048, ge=64, le=32_768, description="longest output of one model call")
    max_context_tokens: int = Field(
        24_000, ge=256, le=1_000_000, description="most tokens of prepared context, where model and budget leave more"
    )
    max_rounds: int = Field(6, ge=1, le=50, description="rounds of reading files in one tool run, then it concludes")
    max_result_bytes: int = Field(262_144, ge=4096, le=1_500_000, description="longer results are cut, with a mark")
    result_cache_entries: int = Field(2000, ge=0, description="complete results kept for identical calls; 0 keeps none")

    @property
    def runs_service(self) -> bool:
        return self.role != "worker"

    @property
    def runs_worker(self) -> bool:
        return self.role != "service"

    def limits(self) -> Limits:
        return Limits(self.max_output_tokens, self.max_context_tokens, self.max_rounds, self.max_result_bytes)

    def surroundings(self) -> Surroundings:
        memory_bytes = self.prepare_memory_mb * 1024 * 1024
        return Surroundings(self.workspaces, self.cache_dir / "indexes", memory_bytes, self.embeddings)
