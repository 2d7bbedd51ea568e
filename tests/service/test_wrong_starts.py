"""What a newcomer does wrong is one line that says what to do, whichever way it was started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app.consumers
from app.settings import ROOT
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.service.start_checks import faults
from tests.processes import import_path
from tests.service.conftest import MakeSettings

Broken = Callable[[str], None]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """Has the service one module of handlers, `broken.py`, with the text given."""
    folder = tmp_path / "app" / "consumers"
    folder.mkdir(parents=True)
    monkeypatch.setattr(app.consumers, "__path__", [str(folder)])

    def write(text: str) -> None:
        (folder / "broken.py").write_text(text)

    yield write
    sys.modules.pop("app.consumers.broken", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def handle(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
        (
            "\nimport nowhere",
            "No module named 'nowhere' (app/consumers/broken.py:2 in",
        ),
        ("handlers = Consumers()", "NameError: name 'Consumers' is not defined"),
        (
            "from jetstream_bridge import Consumers, Event\n"
            "@Consumers().on('a.b')\n"
            "def handle(event: Event[dict]): ...\n",
            "handle is not a coroutine function; write `async def` (app/consumers/broken.py:2",
        ),
    ],
)
def test_handlers_that_do_not_import_are_one_line_with_their_place(
    broken: Broken, make_settings: MakeSettings, text: str, said: str
) -> None:
    broken(text)
    (fault,) = faults(make_settings(), app.consumers.load_consumers)
    assert fault.startswith("app/consumers/broken.py cannot be imported: ")
    assert said in fault
    assert "\n" not in fault
    with pytest.raises(RegistrationError):
        app.consumers.load_consumers()


_GOOD = {"APP_NAME": "orders", "DESTINATION_APP": "billing", "NATS_URLS": "nats://127.0.0.1:1"}
_NOBODY = "postgresql+asyncpg://me:hunter2@127.0.0.1:1/orders"


@pytest.mark.real
@pytest.mark.parametrize(
    ("command", "environment", "status", "said"),
    [
        (
            ["-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "heads"],
            {"DATABASE_URL": _NOBODY},
            1,
            "postgresql+asyncpg://127.0.0.1:1/orders cannot be used: ",
        ),
        (
            ["-m", "alembic", "-c", str(ROOT / "alembic.ini"), "upgrade", "heads"],
            {"DATABASE_URL": "sqlite+aiosqlite:////no/such/folder/x.db"},
            1,
            "is its folder there, and may this user write into it?",
        ),
        (["-m", "app.worker"], {"NATS_CREDS_FILE": __file__}, 2, "holds no user JWT"),
        (["-m", "uvicorn", "app.main:app"], {"NATS_CREDS_FILE": __file__}, 2, "no user JWT"),
        (["-m", "uvicorn", "app.main:app"], {"MAX_DELIVER": "many"}, 2, "MAX_DELIVER: 'many'"),
        (["-S", "-m", "app.cli", "health"], {}, 1, "run `make setup`, and then .venv/bin/python"),
        (["-S", "-m", "app.cli", "--help"], {}, 1, "run `make setup`, and then .venv/bin/python"),
        (["-S", "-m", "app.worker"], {}, 1, "run `make setup`, and then .venv/bin/python"),
        (["-S", "-m", "app.dev"], {}, 1, "run `make setup`, and then .venv/bin/python"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_line(
    command: list[str], environment: dict[str, str], status: int, said: str, tmp_path: Path
) -> None:
    given = {
        "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'x.db'}",
        "PYTHONPATH": import_path(),
    }
    result = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=os.environ | _GOOD | given | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.splitlines()
    assert said in line
    assert "hunter2" not in line
