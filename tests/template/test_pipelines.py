"""Pipelines name what is there, and pin what they take from others."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.template.baking import ROOT, bake
from tests.template.rows import ROWS
from tests.template.test_server_versions import VERSIONS

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OWN = ROOT / ".github/workflows/ci.yml"
RELEASE = ROOT / ".github/workflows/release.yml"
USES = re.compile(r"uses: (\S+)@(\S+)(?: # (v[\d.]+))?$", re.MULTILINE)
CHECKS = {"lint", "audit", "test", "test-real", "check-migrations", "check-contract"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(tmp_path_factory.mktemp("github"), ci="github")


@pytest.fixture(scope="module")
def on_gitlab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(tmp_path_factory.mktemp("gitlab"), ci="gitlab")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def scripts(jobs: dict[str, Any]) -> Iterator[str]:
    """What the jobs of either kind of pipeline run."""
    for job in jobs.values():
        yield from (step["run"] for step in job.get("steps", ()) if "run" in step)
        yield from job.get("script", ())


def gitlab_jobs(service: Path) -> dict[str, Any]:
    entries = read(service / ".gitlab-ci.yml").items()
    return {name: job for name, job in entries if isinstance(job, dict) and "script" in job}


def made(jobs: dict[str, Any]) -> set[str]:
    """The targets that are given to make."""
    lines = (
        shlex.split(line)
        for script in scripts(jobs)
        for line in script.splitlines()
        if line.startswith("make ")
    )
    return {word for _, *words in lines for word in words if re.fullmatch(r"[a-z-]{3,}", word)}


def targets(folder: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (folder / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_every_action_is_pinned_to_a_commit_and_the_same_everywhere(service: Path) -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for path in (OWN, RELEASE, service / ".github/workflows/ci.yml"):
        for action, commit, version in USES.findall(path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{action}@{commit}"
            assert version, f"{action} names no version"
            found.setdefault(action, set()).add((commit, version))
    assert found.keys() == {
        "actions/checkout",
        "actions/download-artifact",
        "actions/setup-python",
        "actions/upload-artifact",
        "pypa/gh-action-pypi-publish",
    }
    assert all(len(pins) == 1 for pins in found.values()), found


def test_every_job_has_a_limit_and_only_those_that_publish_may_write(service: Path) -> None:
    writers = {OWN: set(), RELEASE: {"pypi", "notes"}}
    for path in (OWN, RELEASE, service / ".github/workflows/ci.yml"):
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 120
        rights = {name: job.get("permissions") for name, job in workflow["jobs"].items()}
        writing = {name for name, right in rights.items() if "write" in str(right)}
        assert writing == writers.get(path, {"publish"})


def test_both_pipelines_of_a_service_check_the_same(service: Path, on_gitlab: Path) -> None:
    github = read(service / ".github/workflows/ci.yml")["jobs"]
    gitlab = gitlab_jobs(on_gitlab)
    assert made(github) == made(gitlab) == CHECKS
    assert targets(service) >= CHECKS
    assert github["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert gitlab["test"]["parallel"]["matrix"] == [{"PYTHON_VERSION": PYTHONS}]
    assert {"image", "publish"} <= github.keys()
    assert {"build-image", "publish"} <= gitlab.keys()
    for jobs in (github, gitlab):
        said = "\n".join(scripts(jobs))
        assert "docker compose up --build" in said
        assert "--sbom=true" in said


def test_without_an_image_no_pipeline_builds_one(tmp_path: Path) -> None:
    for ci in ("github", "gitlab"):
        service = bake(tmp_path / ci, ci=ci, deployment="none")
        jobs = (
            gitlab_jobs(service)
            if ci == "gitlab"
            else read(service / ".github/workflows/ci.yml")["jobs"]
        )
        assert "docker" not in "\n".join(scripts(jobs))
        assert made(jobs) == CHECKS


def test_this_repository_is_tested_on_every_version_that_it_promises() -> None:
    jobs = read(OWN)["jobs"]
    nats = [version.rpartition(".")[0] for version in jobs["nats"]["strategy"]["matrix"]["nats"]]
    promised = f"Python {PYTHONS[0]} to {PYTHONS[-1]} · nats-server {nats[0]} to {nats[-1]} · "
    assert f"\n{promised}PostgreSQL and SQLite · MIT\n" in (ROOT / "README.md").read_text("utf-8")
    assert jobs["package"]["strategy"]["matrix"]["python"] == PYTHONS
    *older, newest = jobs["nats"]["strategy"]["matrix"]["nats"]
    assert tuple(older) == VERSIONS
    assert newest.startswith("2.15.")
    assert made(jobs) <= targets(ROOT) | CHECKS
    assert (
        jobs["bake"]["strategy"]["matrix"]["answers"] == "${{ fromJSON(needs.rows.outputs.rows) }}"
    )
    assert len(ROWS) > 8
