"""The operations handbook has what it is asked for at night, and what it says is so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.core import TyperGroup
from typer.main import get_command

from tests.template.baking import ROOT, TEMPLATE
from tests.template.on_the_mock import Check, Processes, cli, eventually, migrated, processes
from tests.template.test_docs_production import NAMES, bare_environment, settings

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(
    re.findall(r"^### ([^\n]+)\n\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
)
# What drivers say, and a form.
OF_OTHERS = {
    "connection refused",
    "password authentication failed",
    "cannot execute INSERT in a read-only transaction",
    "consumer: problem",
}
OTHER_NAMES = {"EVENT_ID", "ID", "SEQ", "STREAM", "SUBJECT", "TYPE", "OLD", "DIR", "NTP", "UPDATE"}

__all__ = ["bare_environment"]


def test_the_repository_and_the_service_share_one_page(default_service: Path) -> None:
    assert (TEMPLATE / "docs" / "operations.md").samefile(ROOT / "docs" / "operations.md")
    assert (default_service / "docs" / "operations.md").read_text(encoding="utf-8") == PAGE


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    """Every check that a process makes."""

    async def asked(url: str) -> dict[str, Check]:
        async with processes(url) as running:
            await eventually(running.is_ready, what="both processes are ready")
            api = (await running.api.get("/readyz")).json()["checks"]
            worker = await running.runtime.health.checks()
            return {name: Check(ok=check["ok"]) for name, check in api.items()} | worker

    return asyncio.run(asked(migrated(tmp_path_factory.mktemp("checks"))))


def test_every_check_of_readiness_has_its_section(checks: dict[str, Check]) -> None:
    assert len(checks) == 7
    for name in checks:
        assert "**Symptom" in SECTIONS[name] and "**Confirm:**" in SECTIONS[name], name
        assert "**Fix:**" in SECTIONS[name] or "**Symptom and fix**" in SECTIONS[name], name


def quoted(section: str) -> list[str]:
    """The texts that a failing check shows: of its symptoms, and of a table's first column."""
    symptom = section.split("\n* ")[0].split("\n|")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [text for text in re.findall(r"`([^`]+)`", " ".join([symptom, *cells])) if " " in text]


def test_every_detail_that_is_quoted_is_one_of_the_code(checks: dict[str, Check]) -> None:
    """`...` stands for names; a text that the code no longer says would send people astray."""
    modules = (TEMPLATE / "jetstream_bridge").rglob("*.py")
    files = [path.read_text(encoding="utf-8") for path in modules]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(files))  # texts over several lines
    texts = [text for name in checks for text in quoted(SECTIONS[name])]
    parts = [part for text in texts for part in re.split(r"\.\.\.|[\d.]*\d", text)]
    missing = {part.strip(" ;:") for part in parts if part.strip(" ;:") not in code}
    assert len(texts) > 30
    assert missing == OF_OTHERS


def test_every_setting_that_is_named_exists_and_has_the_value_in_parentheses() -> None:
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", PAGE))
    assert {name for name in named if not name.startswith("OTEL_")} - OTHER_NAMES <= NAMES
    shown = re.findall(r"`([A-Z_]+)` \((\w+)\)", PAGE)
    assert len(shown) >= 4
    for name, value in shown:
        field = name.lower()
        assert getattr(settings(), field) == getattr(settings(**{field: value}), field), name


def test_links_lead_to_sections() -> None:
    headings = re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert len(links) > 20
    assert set(links) <= anchors


def test_every_command_exists_with_its_options() -> None:
    lines = re.findall(r"python -m app\.cli ([^`#\n)]+)", PAGE)
    assert len(lines) > 30
    for line in sorted(set(lines)):
        words = line.split()
        known = options_of(words)
        for word in words:
            assert not word.startswith("-") or word in known, f"{line}: no option {word}"


def options_of(words: list[str]) -> set[str]:
    """The options of the command that a line names, which is one that does something."""
    command: Any = get_command(cli)
    for word in words:
        if not isinstance(command, TyperGroup):
            break
        found = command.get_command(typer.Context(command), word)
        assert found is not None, f"there is no command {' '.join(words)!r}"
        command = found
    assert not isinstance(command, TyperGroup), f"{words} is a group"
    return {option for parameter in command.params for option in parameter.opts}


async def test_what_a_deleted_stream_held_is_sent_again(tmp_path: Path) -> None:
    [statement] = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    url = await asyncio.to_thread(migrated, tmp_path)
    async with processes(url) as running:
        await eventually(running.is_ready, what="both processes are ready")
        for name in ("Ada", "Grace"):
            customer = {"name": name, "email": f"{name}@example.org"}
            await running.api.post("/customers", json=customer)
        await eventually(lambda: len(sent(running)) == 2, what="both are sent")
        before = sent(running)
        running.server.drop_stream("test-jetstream-bridge-stream")
        async with running.runtime.database.engine.begin() as connection:
            await connection.execute(text(statement))
        await eventually(lambda: sent(running) == before * 2, limit=20, what="both come again")


def sent(running: Processes) -> list[bytes]:
    return [m.data for m in running.server.stored if m.subject == "test.orders.sync.billing"]
