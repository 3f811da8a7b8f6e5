"""What the kustomizations come to: rendered once, read as plain objects."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tools.kubectl import kubectl

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZATIONS = ("base", "overlays/example")

Object = Mapping[str, Any]


def render(kustomization: str) -> list[Object]:
    folder = ROOT / "deploy" / "k8s" / kustomization
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pod_of(deployment: Object) -> Object:
    pod: Object = deployment["spec"]["template"]["spec"]
    return pod


def container_of(deployment: Object) -> Object:
    containers = pod_of(deployment)["containers"]
    assert len(containers) == 1
    container: Object = containers[0]
    return container


def environment(
    objects: Sequence[Object], deployment: Object, secrets: Mapping[tuple[str, str], str]
) -> dict[str, str]:
    """The variables of the deployment's container; `secrets` gives the values of secrets by their name and key."""
    config_maps = of_kind(objects, "ConfigMap")
    return dict(_variables(config_maps, container_of(deployment), secrets))


def _variables(
    config_maps: Mapping[str, Object], container: Object, secrets: Mapping[tuple[str, str], str]
) -> Iterator[tuple[str, str]]:
    for source in container["envFrom"]:
        yield from config_maps[source["configMapRef"]["name"]]["data"].items()
    for variable in container["env"]:
        if "value" in variable:
            yield variable["name"], variable["value"]
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            yield variable["name"], secrets[reference["name"], reference["key"]]
