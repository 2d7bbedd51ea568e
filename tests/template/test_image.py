"""The image's own steps, followed without an engine, make a service that runs without any right.

Its user owns nothing and the tree cannot be written to. It works with the NATS user of
deploy/kubernetes/nats and no further right, and each of its processes ends on SIGTERM with 0.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.server_processes import free_port, wait_until
from jetstream_bridge.testing.servers import NatsServer
from tests.template.baking import bake, clean_environment
from tests.template.image import Image, build, package_index
from tests.template.server_wheels import install_program
from tests.template.wheels import build_wheel

START_LIMIT = 60.0  # seconds; a guard against what hangs
STOP_LIMIT = 30.0  # seconds; what compose.yaml gives each process
PASSWORDS = {
    "SYS_PASSWORD": "s",
    "ADMIN_PASSWORD": "a",
    "ORDERS_SERVICE_PASSWORD": "of-the-service",
}


class Built:
    """One service and the image of it."""

    def __init__(self, service: Path, image: Image) -> None:
        self.service = service
        self.image = image
        compose = yaml.safe_load((service / "compose.yaml").read_text(encoding="utf-8"))
        self.compose: dict[str, Any] = compose["services"]


@pytest.fixture(scope="module", params=["vendored", "installed"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Built]:
    """Vendored on PostgreSQL, and as it comes; installed on SQLite, from a wheel and a uv.lock."""
    installed = request.param == "installed"
    database = "sqlite" if installed else "postgresql"
    into = tmp_path_factory.mktemp(request.param)
    service = bake(into, bridge=request.param, database=database)
    if installed:
        build_wheel(service / "wheels")
        lock(service, tmp_path_factory.mktemp("uv"))
    # Not below pytest's folder, which nobody else may enter.
    place = Path(tempfile.mkdtemp(prefix="image-"))
    place.chmod(0o755)
    try:
        yield Built(service, build(service, place / "root"))
    finally:
        subprocess.run(["chmod", "-R", "u+w", place], check=True, timeout=60)
        shutil.rmtree(place)


def lock(service: Path, tools: Path) -> None:
    """`make lock`, without an environment of the service's own."""
    (named,) = re.findall(r"^FROM ghcr.io/astral-sh/uv:(\S+)", read(service, "Dockerfile"), re.M)
    install_program("uv", f"uv=={named}", tools)
    done = subprocess.run(
        ["make", "lock", "READY=", f"PATH={tools / 'bin'}:{os.environ['PATH']}"],
        cwd=service,
        env=clean_environment(**package_index()),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read(service: Path, name: str) -> str:
    return (service / name).read_text(encoding="utf-8")


def test_an_image_has_what_the_lock_says(built: Built) -> None:
    """Without a uv.lock the build writes one."""
    inside = built.image.root / "srv/uv.lock"
    locked = {one["name"]: one for one in tomllib.loads(inside.read_text("utf-8"))["package"]}
    if (built.service / "uv.lock").exists():
        assert inside.read_bytes() == (built.service / "uv.lock").read_bytes()
    (site,) = (built.image.root / "opt/venv/lib").glob("python*/site-packages")
    installed = [path.stem.rsplit("-", 1) for path in site.glob("*.dist-info")]
    assert len(installed) > 20
    for name, version in installed:
        assert locked[name.replace("_", "-").lower()]["version"] == version


def test_the_image_holds_what_runs_and_nothing_else(built: Built) -> None:
    inside = {path.name for path in (built.image.root / "srv").iterdir()}
    vendored = {"jetstream_bridge"} if (built.service / "jetstream_bridge").exists() else set()
    assert inside == {"alembic.ini", "app", "migrations", "pyproject.toml", "uv.lock"} | vendored
    programs = {path.name for path in (built.image.root / "opt/venv/bin").iterdir()}
    assert {"alembic", "python", "uvicorn"} <= programs
    assert not {"mypy", "nats-server", "pytest", "uv"} & programs
    assert (built.image.root / "srv/app/__pycache__").is_dir()


def answer(port: int, path: str) -> tuple[int, dict[str, object]]:
    """The status and the body; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


def is_ready(port: int) -> bool:
    return answer(port, "/readyz")[1].get("status") == "ready"


@contextmanager
def servers(built: Built, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Runs what compose.yaml and deploy/kubernetes/nats describe; yields the settings for it."""
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)  # for the server
    folder = built.service / "deploy/kubernetes/nats"
    nats = NatsServer(config=(folder / "accounts.conf").read_text(encoding="utf-8"))
    shutil.copy(folder / "orders-service.conf", nats.folder)
    settings = dict(built.compose["api"]["environment"])
    with ExitStack() as stack:
        stack.enter_context(nats)
        if settings["DATABASE_URL"].startswith("postgresql"):
            postgres = stack.enter_context(PostgresServer())
            settings["DATABASE_URL"] = postgres.create_database()
        yield settings | {
            "DATABASE_URL": settings["DATABASE_URL"].replace(
                ":////data", f":///{built.image.folder('/data')}"
            ),
            "NATS_ENV": "production",
            "NATS_URLS": nats.url,
            "NATS_USER": "orders-service",
            "NATS_PASSWORD": PASSWORDS["ORDERS_SERVICE_PASSWORD"],
        }


@contextmanager
def running(
    image: Image, command: list[str], settings: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    process = image.start(command, settings, log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(STOP_LIMIT)


@pytest.mark.timeout(900)
def test_it_runs_as_a_user_without_rights_on_a_tree_that_cannot_be_written(
    built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = built.image
    before = image.files()
    port, worker_port = free_port(), free_port()
    logs = {name: tmp_path / name for name in ("migrate", "api", "worker", "healthcheck")}

    def said() -> str:
        return "\n".join(f"{name}: {log.read_text()}" for name, log in logs.items() if log.exists())

    with servers(built, monkeypatch) as settings:
        migrate = image.start(built.compose["migrate"]["command"], settings, logs["migrate"])
        assert migrate.wait(START_LIMIT) == 0, said()
        settings["WORKER_PORT"] = str(worker_port)
        api_command = [word.replace("8000", str(port)) for word in image.command]
        worker_command = built.compose["worker"]["command"]
        with (
            running(image, api_command, settings, logs["api"]) as api,
            running(image, worker_command, settings, logs["worker"]) as worker,
        ):
            for asked, process in ((port, api), (worker_port, worker)):
                wait_until(
                    partial(is_ready, asked), limit=START_LIMIT, what=f"readiness on {asked}"
                )
                assert answer(asked, "/healthz")[0] == 200
                assert process.poll() is None
            worker_check = built.compose["worker"]["healthcheck"]["test"][1:]
            for check, documented, asked in (
                (image.healthcheck, "8000", port),
                (worker_check, "8001", worker_port),
            ):
                ours = [word.replace(documented, str(asked)) for word in check]
                assert image.start(ours, {}, logs["healthcheck"]).wait(START_LIMIT) == 0, said()
                gone = [word.replace(documented, str(free_port())) for word in check]
                assert image.start(gone, {}, logs["healthcheck"]).wait(START_LIMIT) == 1
            if os.getuid() == 0:
                assert os.stat(f"/proc/{api.pid}").st_uid == 10001
            for process in (api, worker):
                process.terminate()
            assert [process.wait(STOP_LIMIT) for process in (api, worker)] == [0, 0], said()
    assert {name for name in image.files() - before if not name.startswith("data/")} == set()


@pytest.mark.skipif(os.getuid() != 0, reason="takes another user")
def test_its_user_can_write_nowhere_but_to_the_volume(built: Built, tmp_path: Path) -> None:
    tried = """
import os, sys
for folder, _, files in os.walk(sys.argv[1]):
    for name in (folder, *(os.path.join(folder, file) for file in files)):
        if not os.path.islink(name) and os.access(name, os.W_OK):
            print(name)
"""
    log = tmp_path / "log"
    process = built.image.start(["python", "-c", tried, str(built.image.root)], {}, log)
    assert process.wait(START_LIMIT) == 0, log.read_text()
    volume = built.image.folder("/data")
    found = [Path(line) for line in log.read_text().splitlines()]
    assert [path for path in found if not path.is_relative_to(volume)] == []
    assert (volume in found) == volume.exists()  # what can be written to is found
