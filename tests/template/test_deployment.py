"""Deployment files say what is true of the service: settings, ports, probes, times, rights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from jetstream_bridge.core.durations import seconds
from jetstream_bridge.service import shutdown
from jetstream_bridge.service.settings_loading import read_settings
from jetstream_bridge.testing.servers import find_nats_server
from jetstream_bridge.web import health, metrics
from tests.template.baking import ROOT, bake, clean_environment
from tests.template.image import read_dockerfile
from tests.template.manifests import Kustomization, Resource

SETTINGS = {name.upper() for name in Settings.model_fields}
SLUGS = ("orders-service", "stock_keeper")
COMPONENTS = "../../components"
LOCAL = r"^(?:127\.0\.0\.1:)?(\d+):(\d+)$"  # a port that Compose opens
PAGE = " ".join((ROOT / "docs/deploying.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module", params=SLUGS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that differ in whatever the files depend on; a `_` may stand in no name of Kubernetes."""
    if request.param == SLUGS[0]:
        return bake(tmp_path_factory.mktemp("deployed"))
    return bake(
        tmp_path_factory.mktemp("deployed"),
        service_slug=SLUGS[1],
        database="sqlite",
        include_example=False,
        destination_app="till_2",
        ci="gitlab",
        bridge="installed",
    )


def kubernetes(service: Path, name: str, **options: Any) -> Kustomization:
    return Kustomization(service / "deploy/kubernetes" / name, **options)


def all_kustomizations(service: Path) -> Iterator[Kustomization]:
    yield kubernetes(service, "overlays/dev")
    for components in ([], ["worker-standby"], ["keda", "pod-monitor"]):
        named = [f"{COMPONENTS}/{name}" for name in components]
        yield kubernetes(service, "overlays/production", components=named)
    yield kubernetes(service, "nats")


def own_containers(kustomization: Kustomization) -> Iterator[tuple[Resource, Any, Any]]:
    """Each container of the service's image, with its pod and the pod's owner."""
    name = re.sub("_", "-", kustomization.folder.parents[3].name)
    for owner, pod in kustomization.pods():
        for container in pod["containers"]:
            if container["image"] == name:
                yield owner, pod, container


def compose(service: Path, file: str = "compose.yaml") -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((service / file).read_text(encoding="utf-8"))
    return read


def own_services(service: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of Compose that run this template's image, the peer's included."""
    for file in ("compose.yaml", "compose.two-services.yaml"):
        for name, definition in compose(service, file)["services"].items():
            if "build" in definition:
                yield name, definition


def port_of(command: list[str]) -> int:
    """The port that a process serves on, by its command."""
    if "--port" in command:
        return int(command[command.index("--port") + 1])
    assert command == ["python", "-m", "app.worker"]
    port: int = Settings.model_fields["worker_port"].default
    return port


def image_command(service: Path) -> list[str]:
    (line,) = (line for line in read_dockerfile(service / "Dockerfile") if line.word == "CMD")
    command: list[str] = json.loads(line.rest)
    return command


def probed(router: Any) -> set[str]:
    return {route.path for route in router.routes}


def test_every_file_is_named_and_every_name_is_a_file(service: Path) -> None:
    named = {path for one in all_kustomizations(service) for path in one.files}
    there = {path for path in (service / "deploy/kubernetes").rglob("*") if path.is_file()}
    assert {path.resolve() for path in named} == there
    assert len(there) > 15


def test_every_variable_is_a_setting(service: Path) -> None:
    named: set[str] = set()
    for _, definition in own_services(service):
        named |= definition["environment"].keys()
    for kustomization in all_kustomizations(service):
        for _, _, container in own_containers(kustomization):
            named |= kustomization.settings_of(container).keys()
    assert named <= SETTINGS
    assert len(named) > 6


def test_every_value_is_one_that_the_settings_take(
    service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    checked = 0
    environments = [definition["environment"] for _, definition in own_services(service)]
    for kustomization in all_kustomizations(service):
        for _, _, container in own_containers(kustomization):
            environments.append(kustomization.settings_of(container))
    for environment in environments:
        given = {"database_url": "postgresql+asyncpg://nobody@localhost/none"}
        given |= {"app_name": "orders", "destination_app": "billing"}
        if "NATS_USER" in environment:
            given["nats_password"] = "of the Secret"
        given |= {
            name.lower(): re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value)
            for name, value in environment.items()
        }
        read_settings(Settings, _env_file=None, **given)
        checked += 1
    assert checked > 10


def test_ports_and_probes_are_those_of_the_processes(service: Path) -> None:
    api, worker = image_command(service), ["python", "-m", "app.worker"]
    assert (port_of(api), port_of(worker)) == (8000, 8001)
    assert {"/healthz", "/readyz"} <= probed(health.router)
    seen = set()
    for kustomization in all_kustomizations(service):
        for owner, _, container in own_containers(kustomization):
            kind = owner["metadata"]["labels"]["app.kubernetes.io/component"]
            seen.add(kind)
            if kind == "migrate":
                assert container["command"] == ["alembic", "upgrade", "heads"]
                continue
            (port,) = container["ports"]
            assert port["containerPort"] == port_of(container.get("command", api))
            paths = {
                probe: container[f"{probe}Probe"]["httpGet"]
                for probe in ("startup", "liveness", "readiness")
            }
            assert {one["port"] for one in paths.values()} == {port["name"]}
            assert {name: one["path"] for name, one in paths.items()} == {
                "startup": "/healthz",
                "liveness": "/healthz",
                "readiness": "/readyz",
            }
            notes = owner["spec"]["template"]["metadata"]["annotations"]
            assert notes["prometheus.io/port"] == str(port["containerPort"])
            assert notes["prometheus.io/path"] in probed(metrics.router)
    assert seen == {"api", "worker", "migrate"}


def test_compose_asks_and_opens_the_ports_of_the_processes(service: Path) -> None:
    for name, definition in own_services(service):
        if name.endswith("migrate"):
            assert definition["command"] == ["alembic", "upgrade", "heads"]
            continue
        port = port_of(definition.get("command", image_command(service)))
        (opened,) = definition["ports"]
        assert re.fullmatch(LOCAL, opened)
        assert opened.endswith(f":{port}")
        if "healthcheck" in definition:
            assert f"127.0.0.1:{port}/healthz'" in definition["healthcheck"]["test"][-1]
    (check,) = (one for one in read_dockerfile(service / "Dockerfile") if one.word == "HEALTHCHECK")
    assert f"127.0.0.1:{port_of(image_command(service))}/healthz'" in check.rest
    (exposed,) = (one for one in read_dockerfile(service / "Dockerfile") if one.word == "EXPOSE")
    assert exposed.rest == "8000 8001"


def test_services_and_policies_reach_the_pods_that_they_mean(service: Path) -> None:
    for kustomization in all_kustomizations(service):
        pods = [
            owner["spec"]["template"]["metadata"]["labels"] for owner, _ in kustomization.pods()
        ]
        for (kind, name), resource in kustomization.resources.items():
            selected = {
                "Service": lambda spec: spec["selector"],
                "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
                "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
                "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
                "Deployment": lambda spec: spec["selector"]["matchLabels"],
            }.get(kind)
            if selected is None:
                continue
            labels = selected(resource["spec"]).items()
            assert any(labels <= pod.items() for pod in pods), f"{kind} {name} selects no pod"
            if kind == "Service":
                ports = {
                    port["name"]
                    for owner, pod in kustomization.pods()
                    if labels <= owner["spec"]["template"]["metadata"]["labels"].items()
                    for container in pod["containers"]
                    for port in container["ports"]
                }
                assert {port["targetPort"] for port in resource["spec"]["ports"]} <= ports
            scaled = resource["spec"].get("scaleTargetRef")
            assert scaled is None or ("Deployment", scaled["name"]) in kustomization.resources


def test_autoscalers_have_a_target_and_nobody_else_says_how_many(service: Path) -> None:
    found = 0
    for kustomization in all_kustomizations(service):
        for (kind, _), resource in kustomization.resources.items():
            if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
                found += 1
                target = kustomization.resources[
                    "Deployment", resource["spec"]["scaleTargetRef"]["name"]
                ]
                assert "replicas" not in target["spec"]
    assert found == 4  # three of production with the API's, and the worker's


def test_configuration_and_secrets_are_there_or_said_to_be_made_by_hand(service: Path) -> None:
    """The page names each Secret that is in no file."""
    for kustomization in all_kustomizations(service):
        for _, pod in kustomization.pods():
            for container in pod["containers"]:
                for source in container.get("envFrom", ()):
                    if "configMapRef" in source:
                        assert (
                            "ConfigMap",
                            source["configMapRef"]["name"],
                        ) in kustomization.generated
                        continue
                    name = source["secretRef"]["name"]
                    documented = name.replace(service.name.replace("_", "-"), "orders-service")
                    assert ("Secret", name) in kustomization.generated or f"`{documented}`" in PAGE
            for volume in pod.get("volumes", ()):
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in kustomization.generated


def test_every_pod_keeps_to_the_restricted_standard(service: Path) -> None:
    found = 0
    for kustomization in all_kustomizations(service):
        for owner, pod in kustomization.pods():
            found += 1
            assert pod["automountServiceAccountToken"] is False
            assert pod["enableServiceLinks"] is False
            context = pod["securityContext"]
            assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                inner = container["securityContext"]
                assert inner["allowPrivilegeEscalation"] is False, owner
                assert inner["readOnlyRootFilesystem"] is True
                assert inner["capabilities"] == {"drop": ["ALL"]}
                assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
                assert "memory" in container["resources"]["limits"]
    assert found >= 15


def test_the_image_s_user_is_the_pods_and_compose_gives_no_rights_back(service: Path) -> None:
    (user,) = (line.rest for line in read_dockerfile(service / "Dockerfile") if line.word == "USER")
    for kustomization in all_kustomizations(service):
        for _, pod, _ in own_containers(kustomization):
            context = pod["securityContext"]
            assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    for _, definition in own_services(service):
        assert definition["read_only"] is True
        assert definition["cap_drop"] == ["ALL"]
        assert definition["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in definition


def test_whoever_stops_a_process_waits_until_it_has_ended_itself(service: Path) -> None:
    for _, definition in own_services(service):
        if "stop_grace_period" in definition:
            grace = Settings.model_fields["shutdown_grace"].default
            assert seconds(definition["stop_grace_period"]) > seconds(grace) + shutdown.AFTER_GRACE
    for kustomization in all_kustomizations(service):
        for owner, pod, container in own_containers(kustomization):
            if owner["kind"] == "Job":
                continue
            given = seconds(kustomization.settings_of(container)["SHUTDOWN_GRACE"])
            before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            needed = before.get("seconds", 0) + given + shutdown.AFTER_GRACE
            assert pod["terminationGracePeriodSeconds"] > needed
            assert ("preStop" in str(container)) == ("component: api" in yaml.dump(owner))


def test_order_is_given_up_by_the_component_that_says_so_and_by_no_other(service: Path) -> None:
    worker = ("Deployment", f"{service.name.replace('_', '-')}-worker")
    for components in ([], ["worker-standby"], ["keda"]):
        named = [f"{COMPONENTS}/{name}" for name in components]
        built = kubernetes(service, "overlays/production", components=named)
        spec = built.resources[worker]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        exclusive = built.settings_of(container).get("WORKER_EXCLUSIVE") == "true"
        alone = spec.get("replicas") == 1 and spec["strategy"] == {"type": "Recreate"}
        assert (exclusive or alone) == (components != ["keda"])


def test_the_number_of_connections_is_counted(service: Path) -> None:
    """That of docs/production.md, with all pods of production during a rolling update."""
    built = kubernetes(service, "overlays/production")
    name = service.name.replace("_", "-")
    concurrency = Settings.model_fields["worker_concurrency"].default
    apis = built.resources["HorizontalPodAutoscaler", f"{name}-api"]["spec"]["maxReplicas"] + 1
    workers = built.resources["Deployment", f"{name}-worker"]["spec"]["replicas"] + 1
    each = 2 * concurrency + 5
    assert f"({apis} + {workers}) x {each} = {(apis + workers) * each}" in PAGE


def permissions(service: Path) -> str:
    """What the command prints in the folder of the service."""
    command = [sys.executable, "-m", "app.cli", "permissions"]
    paths = [str(service), str(ROOT / "<<cookiecutter.service_slug>>")]
    done = subprocess.run(
        command,
        cwd=service,
        env=clean_environment(NATS_ENV="production", PYTHONPATH=":".join(paths)),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rights_are_those_that_the_command_prints(service: Path) -> None:
    written = service / f"deploy/kubernetes/nats/{service.name}.conf"
    assert written.read_text(encoding="utf-8") == permissions(service)


def test_nats_takes_its_configuration(service: Path, tmp_path: Path) -> None:
    built = kubernetes(service, "nats")
    (server,) = (container for _, pod in built.pods() for container in pod["containers"])
    assert server["args"] == ["--config", "/etc/nats-config/nats.conf"]
    for name, text in built.generated["ConfigMap", "nats-config"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    wanted = set(
        re.findall(r"\$([A-Z0-9_]+)", "".join(path.read_text() for path in tmp_path.iterdir()))
    )
    wanted -= {"JS"}  # of the subjects
    own = f"{service.name.upper().replace('-', '_')}_PASSWORD"
    assert wanted == {"POD_NAME", "SYS_PASSWORD", "ADMIN_PASSWORD", own}

    def check(environment: dict[str, str]) -> int:
        command = [str(find_nats_server()), "-t", "-c", str(tmp_path / "nats.conf")]
        return subprocess.run(
            command, env=environment, capture_output=True, timeout=30, check=False
        ).returncode

    given = dict.fromkeys(wanted, "nats-0")
    assert check(given) == 0
    del given[own]
    assert check(given) != 0


def test_servers_have_the_time_that_their_configuration_takes(service: Path) -> None:
    built = kubernetes(service, "nats")
    text = built.generated["ConfigMap", "nats-config"]["nats.conf"]
    waits = re.findall(r"^lame_duck_\w+: (\d+)s$", text, re.MULTILINE)
    (pod,) = (pod for _, pod in built.pods())
    assert len(waits) == 2
    assert pod["terminationGracePeriodSeconds"] > sum(map(int, waits))


def test_a_version_is_the_same_wherever_it_stands(service: Path) -> None:
    """One that is behind the others would be an environment that nobody has tested."""
    paths = [path for path in service.rglob("*") if path.suffix in (".yaml", ".yml")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths if ".git/" not in str(path))
    for image in ("nats", "postgres"):
        assert len(set(re.findall(rf"(?:image|name): {image}:(\S+)", text))) == 1
    (python,) = re.findall(r"^FROM python:([\d.]+)-", (service / "Dockerfile").read_text(), re.M)
    assert f'"{python}"' in re.findall(r"(?:python|PYTHON_VERSION): (\[.*\])", text)[0]


def test_the_page_names_what_is_there(service: Path) -> None:
    if service.name != SLUGS[0]:  # the page's names are this one's
        return
    resources: set[tuple[str, str]] = set()
    for kustomization in all_kustomizations(service):
        resources |= kustomization.resources.keys()
    named = re.findall(r"\b(job|deployment|service|deploy)/([a-z]+-[a-z-]+)", PAGE)
    kinds = {"job": "Job", "deployment": "Deployment", "deploy": "Deployment", "service": "Service"}
    assert len(named) > 5
    assert {(kinds[kind], name) for kind, name in named} <= resources
    folders = re.findall(r"\| `((?:base|overlays|components|nats)[a-z/-]*)` \|", PAGE)
    there = (service / "deploy/kubernetes").rglob("kustomization.yaml")
    assert {str(path.parent.relative_to(service / "deploy/kubernetes")) for path in there} == {
        *folders
    }
    for name in re.findall(r"`(Dockerfile|\.dockerignore|compose[a-z.-]*yaml)`", PAGE):
        assert (service / name).exists(), name


def test_the_page_s_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([a-z-]+\.md)(?:#([a-z-]+))?\)", PAGE)
    assert len(links) >= 4
    for name, section in links:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^a-z -]", "", one.lower()).replace(" ", "-") for one in headings}
        assert not section or section in anchors, f"{name}#{section}"
