"""The settings reference in docs/operations.md is that of the code, and no class is left out of it."""

from __future__ import annotations

import importlib
import subprocess

from svc_common.settings import Settings
from tests.deploy.manifests import ROOT
from tools.settings_reference import CLASSES, PAGE, environment_names, settings_class, with_reference


def test_the_page_says_what_the_classes_say() -> None:
    page = PAGE.read_text()
    assert page == with_reference(page), "run `python tools/settings_reference.py write`"


def test_every_settings_class_is_in_the_reference() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "*settings.py"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    modules = [
        name.removesuffix(".py").replace("/", ".") for name in listing.stdout.split() if name.endswith("/settings.py")
    ]
    found = {
        f"{module}.{name}"
        for module in modules
        for name, cls in vars(importlib.import_module(module)).items()
        if isinstance(cls, type) and issubclass(cls, Settings) and cls.__module__ == module and "table" in vars(cls)
    }
    assert found == set(CLASSES)


def test_no_variable_belongs_to_two_classes() -> None:
    names = [name for cls in CLASSES for name in environment_names(settings_class(cls))]
    assert len(names) == len(set(names))
