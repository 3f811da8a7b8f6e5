"""What a cluster is asked to run: valid, closed, able to lose a pod, and configured with settings that exist."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import kubernetes_validate
import pytest

from svc_common.settings import ServiceSettings, load
from tests.deploy.manifests import ROOT, Object, container_of, environment, of_kind, pod_of
from tools.settings_reference import CLASSES, environment_names, settings_class

OLDEST, NEWEST = "1.32", "1.37"
SERVICES = {"coordinator": 8810, "jobs": 8811, "budget": 8812, "tool": 8813}
DEPLOYMENTS = {*SERVICES, "tool-worker"}
SECRETS = {
    ("dbp-auth", "token"): "a-token",
    ("dbp-database", "jobs-url"): "postgresql://jobs@postgres/jobs",
    ("dbp-database", "budget-url"): "postgresql://budget@postgres/budget",
}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid_and_has_no_unknown_field(manifests: Sequence[Object], version: str) -> None:
    for found in manifests:
        assert kubernetes_validate.validate(found, version, strict=True) == version


def test_all_that_runs_is_there(manifests: Sequence[Object]) -> None:
    assert set(of_kind(manifests, "Deployment")) == DEPLOYMENTS
    assert set(of_kind(manifests, "ServiceAccount")) == DEPLOYMENTS
    assert set(of_kind(manifests, "PodDisruptionBudget")) == DEPLOYMENTS
    assert set(of_kind(manifests, "Service")) == set(SERVICES)
    (namespace,) = of_kind(manifests, "Namespace")
    assert {found["metadata"].get("namespace", namespace) for found in manifests} == {namespace}
    assert not of_kind(manifests, "Secret")


def test_no_container_may_do_more_than_it_needs(manifests: Sequence[Object]) -> None:
    for name, deployment in of_kind(manifests, "Deployment").items():
        pod, container = pod_of(deployment), container_of(deployment)
        assert pod["serviceAccountName"] == name
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "initContainers" not in pod
    for account in of_kind(manifests, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_every_container_has_requests_limits_and_somewhere_to_write(manifests: Sequence[Object]) -> None:
    for deployment in of_kind(manifests, "Deployment").values():
        pod, container = pod_of(deployment), container_of(deployment)
        for kind in ("requests", "limits"):
            assert set(container["resources"][kind]) == {"cpu", "memory", "ephemeral-storage"}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for path in ("/tmp", "/var/lib/dbp"):
            assert "sizeLimit" in volumes[mounts[path]["name"]]["emptyDir"]


def test_the_image_is_this_version_and_never_a_moving_tag(manifests: Sequence[Object]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container_of(deployment)["image"] for deployment in of_kind(manifests, "Deployment").values()}
    assert len(images) == 1
    assert images.pop().endswith(f"dbp:{version}")


def test_every_container_is_probed_on_the_port_it_serves(manifests: Sequence[Object]) -> None:
    for name, deployment in of_kind(manifests, "Deployment").items():
        container = container_of(deployment)
        (port,) = container["ports"]
        assert port == {"name": "grpc", "containerPort": SERVICES[name.removesuffix("-worker")]}
        values = environment(manifests, deployment, SECRETS)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "DBP_TLS_CERT_FILE" in values:
                assert container[probe]["tcpSocket"] == {"port": "grpc"}
                assert "grpc" not in container[probe]
            else:
                assert container[probe]["grpc"] == {"port": port["containerPort"]}
        assert values[f"DBP_{name.removesuffix('-worker').upper()}_LISTEN"].endswith(f":{port['containerPort']}")


def test_a_pod_leaves_without_dropping_a_call(manifests: Sequence[Object]) -> None:
    for deployment in of_kind(manifests, "Deployment").values():
        pod, container = pod_of(deployment), container_of(deployment)
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        values = environment(manifests, deployment, SECRETS)
        drain = max(float(value) for name, value in values.items() if name.endswith("_DRAIN_SECONDS"))
        assert pod["terminationGracePeriodSeconds"] > sleep + drain
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_services_are_headless_and_lead_to_the_pods_of_their_deployment(manifests: Sequence[Object]) -> None:
    deployments = of_kind(manifests, "Deployment")
    for name, service in of_kind(manifests, "Service").items():
        labels = deployments[name]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"].items() <= labels.items()
        (port,) = service["spec"]["ports"]
        # Clients of a headless service connect to the pods themselves: its port must be theirs.
        assert port["port"] == container_of(deployments[name])["ports"][0]["containerPort"]
        values = environment(manifests, deployments[name], SECRETS)
        assert values[f"DBP_{name.upper()}_ADDRESS"] == f"dns:///{name}:{port['port']}"


def test_no_selector_takes_the_pods_of_another_deployment(manifests: Sequence[Object]) -> None:
    deployments = of_kind(manifests, "Deployment")
    labels = {name: found["spec"]["template"]["metadata"]["labels"] for name, found in deployments.items()}
    selectors = [(name, found["spec"]["selector"]["matchLabels"]) for name, found in deployments.items()]
    for name, disruptions in of_kind(manifests, "PodDisruptionBudget").items():
        assert disruptions["spec"]["maxUnavailable"] == 1
        selectors.append((name, disruptions["spec"]["selector"]["matchLabels"]))
    selectors += [(name, found["spec"]["selector"]) for name, found in of_kind(manifests, "Service").items()]
    for name, selector in selectors:
        assert [taken for taken, those in labels.items() if selector.items() <= those.items()] == [name]


def test_pods_of_a_deployment_are_spread_over_nodes_and_zones(manifests: Sequence[Object]) -> None:
    for deployment in of_kind(manifests, "Deployment").values():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        spread = pod_of(deployment)["topologySpreadConstraints"]
        assert {part["topologyKey"] for part in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        for part in spread:
            assert part["labelSelector"]["matchLabels"].items() <= labels.items()
            assert "app.kubernetes.io/name" in part["matchLabelKeys"]


def test_the_number_of_workers_is_the_autoscalers_alone(manifests: Sequence[Object]) -> None:
    (scaler,) = of_kind(manifests, "HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    deployment = of_kind(manifests, "Deployment")[target["name"]]
    assert (target["kind"], target["apiVersion"]) == ("Deployment", deployment["apiVersion"])
    # A number here would be set again, over the autoscaler's, each time the manifests are applied.
    assert "replicas" not in deployment["spec"]
    assert 1 < scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]


def test_only_tool_pods_see_files_and_none_may_write_them(manifests: Sequence[Object]) -> None:
    seeing = set()
    for name, deployment in of_kind(manifests, "Deployment").items():
        for volume in pod_of(deployment)["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                (mount,) = (it for it in container_of(deployment)["volumeMounts"] if it["name"] == volume["name"])
                assert claim["readOnly"]
                assert mount["readOnly"]
                folders = environment(manifests, deployment, SECRETS)["DBP_TOOL_WORKSPACES"]
                assert all(folder.partition("=")[2].startswith(mount["mountPath"]) for folder in folders.split(","))
                seeing.add(name)
    assert seeing == {"tool", "tool-worker"}


def test_every_variable_is_a_setting_and_every_service_takes_its_values(
    manifests: Sequence[Object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {name for cls in CLASSES for name in environment_names(settings_class(cls))}
    known |= {"AWS_REGION", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    monkeypatch.chdir(tmp_path)
    for deployment in of_kind(manifests, "Deployment").values():
        values = environment(manifests, deployment, SECRETS)
        assert set(values) <= known
        (module,) = container_of(deployment)["args"]
        (own,) = (settings_class(name) for name in CLASSES if name.startswith(f"{module}.settings."))
        assert issubclass(own, ServiceSettings)
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            settings = load(own)
        assert settings.common.auth_token == SECRETS["dbp-auth", "token"]
        if "DBP_TLS_CERT_FILE" in values:
            assert settings.common.tls_key_file is not None
