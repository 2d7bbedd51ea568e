"""The wheel holds the package and nothing else; a service with `bridge: installed` lives on it."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import jetstream_bridge
from tests.template.baking import ROOT, TEMPLATE, bake, clean_environment
from tests.template.dependency_groups import group
from tests.template.test_generated_suites import SETUP_AND_TEST, make
from tests.template.wheels import build_wheel, copy_package, found_in

PACKAGE = TEMPLATE / "jetstream_bridge"
LEFT_BY_TOOLS = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
LIMIT = pytest.mark.timeout(2 * SETUP_AND_TEST + 20)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service that depends on the wheel, with an environment of its own."""
    service = bake(tmp_path_factory.mktemp("installed"), bridge="installed")
    set_up(service, wheel.parent)
    return service


def set_up(service: Path, wheels: Path) -> str:
    links = found_in(wheels)
    pip, uv = links["PIP_FIND_LINKS"], links["UV_FIND_LINKS"]
    return make(service, "setup", PIP_FIND_LINKS=pip, UV_FIND_LINKS=uv)


def project(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return found


def python(service: Path, environment: Path, *command: str, **changes: str) -> str:
    """Run Python of `environment` in the service's folder and return what it printed."""
    done = subprocess.run(
        [environment / ".venv/bin/python", *command],
        cwd=service,
        env=clean_environment(**changes),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    copy = copy_package(tmp_path / "repository")
    for cache in LEFT_BY_TOOLS:
        (copy / "core" / cache).mkdir(exist_ok=True)
        (copy / "core" / cache / "left").write_bytes(b"")
    built = build_wheel(tmp_path / "dist", tmp_path / "repository")
    with zipfile.ZipFile(built) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = (path for path in PACKAGE.rglob("*") if path.is_file())
    assert held == {
        str(path.relative_to(TEMPLATE)) for path in there if not LEFT_BY_TOOLS & {*path.parts}
    }
    kinds = {Path(name).suffix for name in held} | {Path(name).name for name in held}
    assert kinds >= {".html", ".css", ".js", ".svg", "py.typed", "0001_bridge.py"}


def test_the_wheel_has_the_version_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "jetstream-bridge"
    assert metadata["Version"] == jetstream_bridge.__version__


def test_a_vendored_service_lists_what_the_wheel_needs(default_service: Path) -> None:
    ours, theirs = (
        project(ROOT / "package/pyproject.toml"),
        project(default_service / "pyproject.toml"),
    )
    assert theirs["dependencies"] == ours["dependencies"]
    extras = ours["optional-dependencies"]
    assert theirs["optional-dependencies"]["otel"] == extras["otel"]
    wanted = {line for lines in extras.values() for line in lines}
    assert wanted <= {*group(default_service / "pyproject.toml", "dev")}


def test_an_installed_service_depends_on_the_package_only(tmp_path: Path) -> None:
    service = bake(tmp_path / "out", bridge="installed")
    written = project(service / "pyproject.toml")
    (major, minor, _) = jetstream_bridge.__version__.split(".")
    range_ = f">={jetstream_bridge.__version__},<{major}.{int(minor) + 1}"
    assert written["dependencies"] == [f"jetstream-bridge{range_}"]
    extras = {*project(ROOT / "package/pyproject.toml")["optional-dependencies"]}
    lines = [*written["optional-dependencies"]["otel"], *group(service / "pyproject.toml", "dev")]
    named = re.findall(r"jetstream-bridge\[([^\]]*)\]", str(lines))
    assert {one for names in named for one in names.split(",")} == extras
    assert not (service / "jetstream_bridge").exists()


def test_no_file_of_an_installed_service_names_the_folder(tmp_path: Path) -> None:
    service = bake(tmp_path / "out", bridge="installed")
    for path in service.rglob("*"):
        # docs/operations.md names modules of the package, wherever it lies.
        if path.is_file() and not {".git", "docs"} & {*path.relative_to(service).parts}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<!/)jetstream_bridge/", text), path


@LIMIT
def test_an_installed_service_passes_its_tests(installed: Path) -> None:
    said = python(installed, installed, "-c", "import jetstream_bridge as j; print(j.__file__)")
    assert "site-packages" in said
    assert " passed" in make(installed, "test")


@LIMIT
def test_an_installed_service_passes_its_checks(installed: Path) -> None:
    make(installed, "lint")


@LIMIT
def test_an_installed_service_passes_on_real_servers(installed: Path) -> None:
    assert " passed" in make(installed, "test-real")


@LIMIT
def test_alembic_finds_the_revisions_of_the_installed_package(
    installed: Path, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    python(installed, installed, "-m", "alembic", "upgrade", "heads", DATABASE_URL=url)
    heads = python(installed, installed, "-m", "alembic", "current", DATABASE_URL=url)
    assert len(re.findall(r"\(head\)", heads)) == 2
    assert "bridge_" in heads


@LIMIT
def test_changing_over_is_deleting_the_folder_and_adding_one_dependency(
    installed: Path, default_service: Path, tmp_path: Path
) -> None:
    """As docs/upgrading.md says; what else pyproject.toml lists does no harm."""
    service = tmp_path / "orders-service"
    shutil.copytree(default_service, service)
    shutil.rmtree(service / "jetstream_bridge")
    file = service / "pyproject.toml"
    (line,) = project(installed / "pyproject.toml")["dependencies"]
    text = file.read_text(encoding="utf-8")
    changed = text.replace("\ndependencies = [\n", f'\ndependencies = [\n    "{line}",\n', 1)
    file.write_text(changed, encoding="utf-8")
    assert line in project(file)["dependencies"]
    # The environment of the service that was baked so has the same packages.
    assert " passed" in python(service, installed, "-m", "pytest", "-q")
    python(service, installed, "-m", "mypy", "--cache-dir", str(tmp_path / "mypy"))


def test_changing_over_by_baking_again_takes_the_folder_away_and_brings_it_back(
    default_service: Path, tmp_path: Path
) -> None:
    shutil.copytree(default_service, tmp_path / "out/orders-service")
    own = tmp_path / "out/orders-service/app/own.py"
    own.write_text('"""The team\'s own."""\n', encoding="utf-8")
    service = bake(tmp_path / "out", "--overwrite-if-exists", bridge="installed")
    assert not (service / "jetstream_bridge").exists()
    file = str(service / ".cookiecutter.yaml")
    assert 'bridge: "installed"' in (service / ".cookiecutter.yaml").read_text(encoding="utf-8")
    bake(tmp_path / "out", "--overwrite-if-exists", "--config-file", file, bridge="vendored")
    assert (service / "jetstream_bridge/py.typed").exists()
    assert own.exists()


@LIMIT
def test_a_newer_version_is_one_change(installed: Path, tmp_path: Path) -> None:
    """The last test of the file: the service is left with the newer version."""
    copy = copy_package(tmp_path / "repository")
    init, now = copy / "__init__.py", jetstream_bridge.__version__
    newer = re.sub(r"\d+$", lambda patch: str(int(patch[0]) + 1), now)
    init.write_text(init.read_text("utf-8").replace(f'"{now}"', f'"{newer}"'), encoding="utf-8")
    build_wheel(tmp_path / "dist", tmp_path / "repository")
    file = installed / "pyproject.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(f">={now}", f">={newer}"), encoding="utf-8")
    assert "Setting up" in set_up(installed, tmp_path / "dist")
    said = python(installed, installed, "-c", "import jetstream_bridge as j; print(j.__version__)")
    assert said.strip() == newer
    assert " passed" in make(installed, "test")
