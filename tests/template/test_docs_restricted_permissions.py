"""docs/restricted-permissions.md, followed with a service of the defaults and a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer
from tests.template.baking import ROOT, clean_environment

PAGE = (ROOT / "docs" / "restricted-permissions.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (publish|subscribe) `(.+?)` \|", re.MULTILINE)
PASSWORDS = {"ADMIN_PASSWORD": "of-the-admin", "ORDERS_PASSWORD": "of-the-service"}
READY_WITHIN = 60.0  # seconds; a guard against what hangs


def blocks(kind: str) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(PAGE) if block["kind"] == kind]


def run(service: Path, script: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace(".venv/bin/python", sys.executable)],
        cwd=service,
        env=clean_environment(**environment),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def worker(service: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.worker"],
        cwd=service,
        env=clean_environment(**environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def readiness(port: int) -> dict[str, object]:
    """What `/readyz` says; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            told: dict[str, object] = json.load(answer)
    except urllib.error.HTTPError as error:
        told = json.load(error)
    except OSError:
        told = {}
    return told


@pytest.fixture
def service(default_service: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "orders-service"
    shutil.copytree(default_service, copy)
    return copy


def test_the_page_can_be_followed(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)  # for the server
    port = free_port()
    environment = {"DATABASE_URL": "sqlite+aiosqlite:///./page.db", "WORKER_PORT": str(port)}
    run(service, ".venv/bin/python -m alembic upgrade heads", environment)
    rights, provisioning = blocks("shell")
    run(service, rights, environment)

    server = NatsServer(config=blocks("nats")[0])
    shutil.copy(service / "orders-service.conf", server.folder)
    with server:
        environment["NATS_URLS"] = server.url
        settings = dict(line.split("=", 1) for line in blocks("env")[0].splitlines())
        environment |= settings
        with worker(service, environment):
            deadline = time.monotonic() + READY_WITHIN
            while "does not exist" not in json.dumps(told := readiness(port)):
                assert time.monotonic() < deadline, told
                time.sleep(0.1)
            said = run(service, provisioning, environment)
            assert said.count("+ create stream") == 2  # planned, and then done
            deadline = time.monotonic() + READY_WITHIN
            while (told := readiness(port)).get("status") != "ready":
                assert time.monotonic() < deadline, told
                time.sleep(0.1)
        refused = {line for line in server.log.splitlines() if "Violation" in line}
        assert all("STREAM.NAMES" in line for line in refused), refused


def test_the_table_has_every_right_that_is_printed(service: Path) -> None:
    said = run(service, ".venv/bin/python -m app.cli permissions --restricted --json", {})
    printed = json.loads(said)
    parts = {"{env}": "development", "{app}": "orders-service", "{destination}": "peer-service"}
    parts["{stream}"] = "development-jetstream-bridge-stream"
    parts["{durable}"] = "development-orders-service-workers"
    told = set()
    for kind, subject in ROW.findall(PAGE):
        for part, value in parts.items():
            subject = subject.replace(part, value)
        told.add((kind, subject))
    rights = {
        (kind, right["subject"]) for kind in ("publish", "subscribe") for right in printed[kind]
    }
    assert told == rights
