from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_common.settings import ServiceSettings, SettingsError, load


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="DBP_EXAMPLE_")
    table = "example"
    size: int = 1
    names: dict[str, int] = Field(default_factory=dict)


@pytest.fixture(autouse=True)
def empty_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))


def test_arguments_win_over_environment_over_project_over_user_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(ExampleSettings).size == 1
    (tmp_path / "user" / "dbp").mkdir(parents=True)
    (tmp_path / "user" / "dbp" / "dbp.toml").write_text("[example]\nsize = 2\n[other]\nsize = 9\n")
    assert load(ExampleSettings).size == 2
    (tmp_path / "dbp.toml").write_text("[example]\nsize = 3\n")
    assert load(ExampleSettings).size == 3
    monkeypatch.setenv("DBP_EXAMPLE_SIZE", "4")
    assert load(ExampleSettings).size == 4
    assert load(ExampleSettings, size=5).size == 5


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("DBP_EXAMPLE_SIZE", "many", "DBP_EXAMPLE_SIZE"),
        ("DBP_EXAMPLE_LISTEN", "nowhere", "DBP_EXAMPLE_LISTEN"),
        ("DBP_EXAMPLE_LISTEN", "127.0.0.1:65536", "DBP_EXAMPLE_LISTEN"),
        ("DBP_EXAMPLE_NAMES", "not JSON", "DBP_EXAMPLE_NAMES"),
        ("DBP_TRACES", "somewhere", "DBP_TRACES"),
        # A certificate without its key would leave TLS off in silence.
        ("DBP_TLS_CERT_FILE", __file__, "[common]: tls_cert_file and tls_key_file"),
        ("DBP_CONFIG", "nowhere.toml", "DBP_CONFIG"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(
    name: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(ExampleSettings)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("[example]\nsizes = 3\n", "'sizes'"), ("[example\n", "dbp.toml"), ("example = 3\n", "must be a table")],
)
def test_a_bad_file_is_one_line_that_names_the_place(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "dbp.toml").write_text(content)
    with pytest.raises(SettingsError, match=complaint):
        load(ExampleSettings)
