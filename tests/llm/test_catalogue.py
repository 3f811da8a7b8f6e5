"""The model catalogue: defaults, what settings change in it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.catalogue import load_catalogue
from svc_common.settings import SettingsError


def test_roles_lead_to_models_in_order_and_an_unknown_role_to_the_fast_ones() -> None:
    catalogue = load_catalogue()

    assert catalogue.models_for("coordinator")[0].id == "amazon.nova-lite-v1:0"
    assert "anthropic.claude" in catalogue.models_for("expert")[0].id
    assert catalogue.models_for("coordinator_get_expert_architect_advice") == catalogue.models_for("expert")
    assert catalogue.models_for("coordinator_get_codebase_context") == catalogue.models_for("fast")
    assert "local.smollm2-135m" in catalogue.models


def test_settings_override_roles_also_with_another_regions_profile_of_a_known_model() -> None:
    catalogue = load_catalogue(roles={"fast": ["eu.amazon.nova-lite-v1:0", "local.smollm2-135m"]})

    first, second = catalogue.models_for("fast")
    assert (first.id, first.context_window) == ("eu.amazon.nova-lite-v1:0", 300_000)
    assert second.id == "local.smollm2-135m"


def test_a_file_adds_models_and_replaces_roles(tmp_path: Path) -> None:
    path = tmp_path / "more.toml"
    path.write_text(
        '[roles]\nexpert = ["my.model", "@fast"]\n[models."my.model"]\ncontext_window = 1000\nmax_output = 10\n'
    )

    ids = [model.id for model in load_catalogue(path).models_for("expert")]

    assert ids[:2] == ["my.model", "amazon.nova-lite-v1:0"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[roles]\nfast = ["unheard.of"]', r"no entry describes the model 'unheard.of'"),
        ('[roles]\nfast = ["@fast"]', r"\[roles\] fast"),
        ("[roles]\nfast = []", r"\[roles\] fast: must be a list"),
        ('[models."m"]\ncontext_window = 5', r'\[models."m"\] max_output: Field required'),
        ('[models."m"]\ncontext_window = 5\nmax_output = 5\ntoolz = true', r'\[models."m"\] toolz'),
        ("[wrong]", r"unknown table 'wrong'"),
        ("[", r"more.toml: "),
    ],
)
def test_a_catalogue_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "more.toml"
    path.write_text(content)

    with pytest.raises(SettingsError, match=problem):
        load_catalogue(path)
