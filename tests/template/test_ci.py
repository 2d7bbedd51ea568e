"""The pipeline's further steps run where they can, and say in one line why they cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.template.baking import ROOT

NOTED = '#!/bin/sh\necho "{name} $*"\n'
FAILS = '#!/bin/sh\necho "{name} cannot" >&2\nexit 100\n'


def run(machine: Path, step: str = "browser", **programs: str) -> str:
    """Run a step on a machine that has these programs and hardly any other."""
    folder = machine / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "env", "id", "mktemp", "rm", "true"):
        (folder / name).symlink_to(shutil.which(name) or name)
    for name, text in programs.items():
        program = folder / name.replace("_", "-")
        program.unlink(missing_ok=True)
        program.write_text(text.format(name=program.name))
        program.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / step],
        env={"PATH": str(folder)},
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_a_chromium_the_tests_run(tmp_path: Path) -> None:
    assert run(tmp_path, make=NOTED, chromium=NOTED) == "make test-browser\n"


def test_root_installs_one_first(tmp_path: Path) -> None:
    said = run(tmp_path, make=NOTED, apt_get=NOTED, id="#!/bin/sh\necho 0\n").splitlines()
    assert said == ["apt-get update -qq", "apt-get install -y -qq chromium", "make test-browser"]


def test_so_does_who_may_become_root(tmp_path: Path) -> None:
    sudo = '#!/bin/sh\nshift\necho "as root: $*"\n'
    said = run(tmp_path, make=NOTED, apt_get=NOTED, id="#!/bin/sh\necho 7\n", sudo=sudo)
    assert "as root: apt-get update -qq\n" in said
    assert said.endswith("make test-browser\n")


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "no apt-get to install it"),
        ({"apt_get": NOTED, "id": "#!/bin/sh\necho 7\n"}, "takes root or sudo without a password"),
        ({"apt_get": FAILS, "id": "#!/bin/sh\necho 0\n"}, "apt-get could not install chromium"),
    ],
)
def test_where_none_can_be_had_it_says_why(
    tmp_path: Path, programs: dict[str, str], reason: str
) -> None:
    said = run(tmp_path, make=NOTED, **programs)
    assert said.startswith("The browser tests did not run: ")
    assert reason in said
    assert len(said.splitlines()) == 1


def test_with_prometheus_the_alerts_are_tested(tmp_path: Path) -> None:
    said = run(tmp_path, "alerts", make=NOTED, promtool=NOTED, prometheus=NOTED)
    assert said == "make test-alerts\n"


def test_prometheus_is_taken_out_of_debians_package(tmp_path: Path) -> None:
    brings = '#!/bin/sh\necho "{name} $*"\n: > prometheus_1.deb\n'
    said = run(tmp_path, "alerts", make=NOTED, apt_get=brings, dpkg_deb=NOTED).splitlines()
    assert [line.split(" /")[0] for line in said] == [
        "apt-get download -qq prometheus",
        "dpkg-deb --extract",
        "make test-alerts",
    ]


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "no apt-get to bring it"),
        ({"apt_get": FAILS}, "apt-get could not bring"),
    ],
)
def test_where_prometheus_cannot_be_had_it_says_why(
    tmp_path: Path, programs: dict[str, str], reason: str
) -> None:
    said = run(tmp_path, "alerts", make=NOTED, **programs)
    assert said.startswith("The tests with Prometheus did not run: ")
    assert reason in said
