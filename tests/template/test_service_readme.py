"""A service does what its README says, step by step."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.baking import clean_environment
from tests.template.test_static import mypy, ruff

BLOCK = re.compile(r"^```python\n# (?P<path>\S+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)

WRITE_AN_INVOICE = """
import asyncio
import httpx
from app.consumers import load_consumers
from app.main import app

async def main():
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/invoices", json={"amount": 7})
            print(answer.status_code, answer.text)

load_consumers()
asyncio.run(main())
"""


def run(service: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=service,
        env=clean_environment(NATS_URLS="nats://127.0.0.1:1"),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(service: Path) -> dict[str, str]:
    readme = (service / "README.md").read_text(encoding="utf-8")
    found = {match["path"]: match["code"] for match in BLOCK.finditer(readme)}
    assert len(found) == readme.count("```python")
    return found


@pytest.fixture(scope="module")
def service(small_service: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service in which the README was followed."""
    copy = tmp_path_factory.mktemp("readme") / small_service.name
    shutil.copytree(small_service, copy)
    for name, code in blocks(copy).items():
        path = copy / name
        before = path.read_text(encoding="utf-8") + "\n" if path.exists() else ""
        path.write_text(before + code, encoding="utf-8")
    message = ("-m", "invoices and payments")
    run(copy, "-m", "alembic", "upgrade", "heads")
    run(copy, "-m", "alembic", "revision", "--autogenerate", *message)
    run(copy, "-m", "alembic", "upgrade", "heads")
    return copy


def test_the_code_of_the_readme_passes_the_checks(service: Path, mypy_cache: Path) -> None:
    new = service.glob("migrations/versions/*_invoices_and_payments.py")
    ruff(service, *blocks(service), *(str(path) for path in new))
    mypy(service, mypy_cache)


def test_the_route_of_the_readme_writes_the_invoice_and_its_event(service: Path) -> None:
    status, answer = run(service, "-c", WRITE_AN_INVOICE).splitlines()[-1].split(" ", 1)
    assert status == "201", answer
    invoice = json.loads(answer)
    with sqlite3.connect(service / "small-service.db") as database:
        assert database.execute("SELECT id, amount FROM invoice").fetchall() == [(invoice["id"], 7)]
        ((envelope,),) = database.execute("SELECT payload FROM jetstream_outbox_events")
    event = json.loads(envelope)
    assert (event["event_type"], event["resource_type"]) == ("invoice.written", "invoice")
    assert event["payload"] == invoice


def test_the_readme_names_what_is_there(default_service: Path) -> None:
    readme = (default_service / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Where things are") :]
    names = re.findall(r"`([\w./-]+)`", table)
    assert len(names) >= 8
    for name in names:
        assert (default_service / name).exists(), name
    for module in re.findall(r"python -m app\.(\w+)", readme):
        assert (default_service / f"app/{module}.py").exists(), module
    makefile = (default_service / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^(?:    |.*`)?make ([a-z-]+)", readme, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
