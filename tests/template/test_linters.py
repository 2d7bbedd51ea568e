"""Linters and schemas find nothing in what is generated, nor in this repository's own pipeline.

They are no part of the environment: `make test-deployment` brings them.
"""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.template.baking import ROOT, bake, clean_environment
from tests.template.rows import ROWS, as_words
from tests.template.test_deployment import all_kustomizations

pytestmark = pytest.mark.deployment

PROGRAMS = Path(sysconfig.get_path("scripts"))
CUSTOM = {"ScaledObject", "PodMonitor"}  # kinds that Kubernetes itself has no schema for
KUBERNETES = "1.34"
SCHEMAS = {
    "compose.yaml": "vendor.compose-spec",
    "compose.two-services.yaml": "vendor.compose-spec",
    "renovate.json": "vendor.renovate",
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
}


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / program, *arguments],
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def passes(program: str, *arguments: str | Path) -> None:
    done = run(program, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def schema(path: Path, name: str) -> list[str | Path]:
    transform = ["--data-transform", "gitlab-ci"] if name == "vendor.gitlab-ci" else []
    return ["--builtin-schema", name, *transform, path]


@pytest.fixture(scope="module", params=ROWS, ids=as_words)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(tmp_path_factory.mktemp("row"), **request.param)


def workflows(*roots: Path) -> Iterator[Path]:
    for root in roots:
        yield from (root / ".github/workflows").glob("*.yml")


def test_each_file_of_a_tool_fits_its_schema(service: Path) -> None:
    found = {name for name in SCHEMAS if (service / name).exists()}
    for name in found:
        passes("check-jsonschema", *schema(service / name, SCHEMAS[name]))
    answers = yaml.safe_load((service / ".cookiecutter.yaml").read_text())["default_context"]
    assert ("compose.yaml" in found) == (answers["deployment"] != "none")
    assert ("renovate.json" in found) == (answers["ci"] != "none")


def test_hadolint_finds_nothing_in_the_image(service: Path) -> None:
    if (service / "Dockerfile").exists():
        passes("hadolint", service / "Dockerfile")


def test_zizmor_finds_nothing_in_the_workflow(service: Path) -> None:
    for path in workflows(service):
        passes("zizmor", "--offline", "--strict-collection", path)


def test_kubernetes_takes_every_resource(service: Path, tmp_path: Path) -> None:
    if not (service / "deploy/kubernetes").exists():
        return
    for number, kustomization in enumerate(all_kustomizations(service)):
        resources = [
            one for (kind, _), one in kustomization.resources.items() if kind not in CUSTOM
        ]
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
        passes("kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, file)


def test_this_repository_s_own_pipeline_is_as_good() -> None:
    own = list(workflows(ROOT))
    assert own
    for path in own:
        passes("check-jsonschema", *schema(path, "vendor.github-workflows"))
        passes("zizmor", "--offline", "--strict-collection", path)
    passes("check-jsonschema", *schema(ROOT / "renovate.json", "vendor.renovate"))


@pytest.mark.parametrize(
    ("program", "arguments", "name", "wrong"),
    [
        ("hadolint", [], "Dockerfile", "FROM python\nRUN cd /srv\n"),
        (
            "zizmor",
            ["--offline"],
            "ci.yml",
            "on: push\njobs: {a: {runs-on: x, steps: [{uses: a/b@v1}]}}\n",
        ),
        (
            "check-jsonschema",
            ["--builtin-schema", "vendor.compose-spec"],
            "compose.yaml",
            "service: {}\n",
        ),
        (
            "check-jsonschema",
            ["--builtin-schema", "vendor.github-issue-forms"],
            "fault.yml",
            "{name: a, description: b, body: [{type: text, attributes: {label: c}}]}\n",
        ),
        (
            "kubernetes-validate",
            ["--strict", "--kubernetes-version", KUBERNETES],
            "pod.yaml",
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {container: []}}\n",
        ),
    ],
)
def test_each_of_them_finds_a_fault(
    program: str, arguments: list[str], name: str, wrong: str, tmp_path: Path
) -> None:
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / name).write_text(wrong, encoding="utf-8")
    assert run(program, *arguments, folder / name).returncode != 0


def test_the_forms_of_this_repository_fit_their_schemas() -> None:
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert [path.name for path in forms] == ["config.yml", "fault.yml", "wish.yml"]
    for path in forms:
        kind = "issue-config" if path.name == "config.yml" else "issue-forms"
        passes("check-jsonschema", "--builtin-schema", f"vendor.github-{kind}", path)
