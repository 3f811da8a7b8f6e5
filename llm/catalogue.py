"""Which models there are, what each can do, and which serve a role, in order. Read once at start from `catalogue.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svc_common.settings import SettingsError

FALLBACK_ROLE = "fast"
_BUILT_IN = Path(__file__).parent / "catalogue.toml"
_PROFILE_PREFIX = re.compile(r"^(arn:[^/]*/)?((us|us-gov|eu|apac|jp|au|ca|global)\.)?")

ToolChoice = Literal["auto", "any", "tool"]


class Model(BaseModel):
    """What one model can do; the keys are explained at the head of `catalogue.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    context_window: Annotated[int, Field(gt=0)]
    max_output: Annotated[int, Field(gt=0)]
    tools: bool = True
    tool_choice: frozenset[ToolChoice] = frozenset({"auto"})
    streaming: bool = True
    system: bool = True
    temperature: bool = True
    caching: frozenset[Literal["system", "messages"]] = frozenset()
    thinking_tag: Annotated[str, Field(pattern=r"^\w*$")] = ""
    bytes_per_token: Annotated[float, Field(ge=1.0, le=8.0)] = 3.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    models: Mapping[str, Model]
    roles: Mapping[str, Sequence[str]]

    def models_for(self, role: str) -> Sequence[Model]:
        """The models that serve a role, first choice first; those of "fast" for a role that has none of its own."""
        ids = self.roles.get(role) or self.roles[FALLBACK_ROLE]
        return [self.models[model_id] for model_id in ids]


def load_catalogue(addition: Path | None = None, roles: Mapping[str, Sequence[str]] | None = None) -> Catalogue:
    """The built-in catalogue with that of a settings file laid over it, and over both the `roles` of the settings.

    A role may name a model by another id of the same model (another region's inference profile): it can do the same. Raises
    SettingsError when a file is malformed or a role names a model that no entry describes.
    """
    raw_models: dict[str, Any] = {}
    raw_roles: dict[str, Any] = {}
    for path in (_BUILT_IN, addition):
        if path is not None:
            content = _read(path)
            raw_models |= content.pop("models", {})
            raw_roles |= content.pop("roles", {})
            if content:
                raise SettingsError(f"{path}: unknown table {sorted(content)[0]!r}")
    raw_roles |= roles or {}
    models = {model_id: _model(model_id, entry) for model_id, entry in raw_models.items()}
    if FALLBACK_ROLE not in raw_roles:
        raise SettingsError(f"the catalogue has no models for the role {FALLBACK_ROLE!r}")
    expanded = {role: _expanded(role, raw_roles) for role in raw_roles}
    for role, ids in expanded.items():
        for model_id in ids:
            models.setdefault(model_id, _same_model(role, model_id, models))
    return Catalogue(models, expanded)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error


def _model(model_id: str, entry: Any) -> Model:
    try:
        return Model(id=model_id, **entry)
    except (ValidationError, TypeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in problem["loc"])
        raise SettingsError(f'catalogue, [models."{model_id}"] {where}: {problem["msg"]}') from error


def _expanded(role: str, roles: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> list[str]:
    entry = roles.get(role)
    if role in seen or not isinstance(entry, list | tuple) or not entry:
        raise SettingsError(f"catalogue, [roles] {role}: must be a list of model ids or @roles")
    ids: list[str] = []
    for item in entry:
        if not isinstance(item, str) or not item:
            raise SettingsError(f"catalogue, [roles] {role}: {item!r} is no model id")
        ids += _expanded(item[1:], roles, seen | {role}) if item.startswith("@") else [item]
    return list(dict.fromkeys(ids))


def _same_model(role: str, model_id: str, models: Mapping[str, Model]) -> Model:
    if model_id in models:
        return models[model_id]
    wanted = _PROFILE_PREFIX.sub("", model_id)
    for known in models.values():
        if _PROFILE_PREFIX.sub("", known.id) == wanted:
            return known.model_copy(update={"id": model_id})
    raise SettingsError(f"catalogue, [roles] {role}: no entry describes the model {model_id!r}")
