"""One line for each event, in one form, whoever logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ROOT

# Logging is a process's: each test configures one of its own.
pytestmark = pytest.mark.real

_MOMENT = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"
_PROGRAM = """
import logging, structlog
from jetstream_bridge.service.logs import configure_logging
configure_logging({level!r}, {log_format!r})
structlog.contextvars.bind_contextvars(trace_id="t1")
structlog.get_logger("ours").info("customer created", name="Zoë")
logging.getLogger("uvicorn.error").warning("low on %s", "disk", extra={{"color_message": "x"}})
logging.getLogger("library").info("connected", extra={{"host": "nats"}})
try:
    raise ValueError("broken")
except ValueError:
    logging.getLogger("library").exception("failed")
"""


_STATEMENT = """
import asyncio
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.logs import configure_logging
from sqlalchemy import text

async def ask():
    engine = create_engine("sqlite+aiosqlite:///{folder}/x.db")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT :value"), {{"value": "private"}})
    await engine.dispose()

configure_logging("DEBUG", "json")
asyncio.run(ask())
"""


def test_not_even_debugging_shows_the_values_of_statements(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _STATEMENT.format(folder=tmp_path)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=True,
    )

    assert "asyncio" in result.stderr, "it is the level that shows most"
    assert "private" not in result.stderr


def _logged(level: str, log_format: str | None) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(level=level, log_format=log_format)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=True,
    )
    assert result.stdout == "", "stdout is for what a command prints"
    return result.stderr.splitlines()


@pytest.mark.parametrize("log_format", ["json", None])
def test_lines_are_json_for_everybody_who_is_not_at_a_terminal(log_format: str | None) -> None:
    lines = [json.loads(line) for line in _logged("INFO", log_format)]

    assert [line["event"] for line in lines] == [
        "customer created",
        "low on disk",
        "connected",
        "failed",
    ]
    assert [line["level"] for line in lines] == ["info", "warning", "info", "error"]
    assert [line["logger"] for line in lines] == ["ours", "uvicorn.error", "library", "library"]
    assert all(re.fullmatch(_MOMENT, line["timestamp"]) for line in lines)
    assert all(line["trace_id"] == "t1" for line in lines)
    assert (lines[0]["name"], lines[2]["host"]) == ("Zoë", "nats")
    assert "color_message" not in lines[1]
    assert "ValueError: broken" in lines[3]["exception"]


def test_console_lines_are_text_without_colours_when_nobody_sees_them() -> None:
    lines = _logged("INFO", "console")

    assert "customer created" in lines[0]
    assert "name=Zoë" in lines[0]
    assert "\x1b" not in "".join(lines)


def test_the_level_counts_for_everybody() -> None:
    assert [json.loads(line)["event"] for line in _logged("ERROR", "json")] == ["failed"]
