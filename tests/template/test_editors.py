"""What editors, containers and git take from a service names what is there."""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.template.baking import ROOT, TEMPLATE

MAKEFILE = (TEMPLATE / "Makefile").read_text(encoding="utf-8")


def document(service: Path, name: str) -> Any:
    return json.loads((service / name).read_text(encoding="utf-8"))


def test_an_editor_and_a_container_get_the_same_extensions(default_service: Path) -> None:
    container = document(default_service, ".devcontainer/devcontainer.json")
    editor = document(default_service, ".vscode/extensions.json")
    assert container["customizations"]["vscode"]["extensions"] == editor["recommendations"]
    assert container["name"] == "orders-service"


def test_a_container_is_set_up_by_the_makefile(default_service: Path) -> None:
    command = document(default_service, ".devcontainer/devcontainer.json")["postCreateCommand"]
    program, target = command.split()
    assert program == "make"
    assert f"\n{target}:" in MAKEFILE


def test_an_editor_uses_the_environment_of_the_makefile(default_service: Path) -> None:
    settings = document(default_service, ".vscode/settings.json")
    assert settings["python.defaultInterpreterPath"] == ".venv/bin/python"
    assert "VENV := .venv\n" in MAKEFILE


def test_a_commit_is_checked_by_the_makefile(default_service: Path) -> None:
    text = (default_service / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["language"]) == ("local", "system")
    program, target = hook["entry"].split()
    assert program == "make"
    assert f"\n{target}:" in MAKEFILE


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE])
def test_editors_write_what_the_linter_wants(folder: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + (folder / ".editorconfig").read_text(encoding="utf-8"))
    assert parser["*.py"]["max_line_length"] == "100"
    assert "line-length = 100" in (folder / "pyproject.toml").read_text(encoding="utf-8")
    assert parser["Makefile"]["indent_style"] == "tab"
