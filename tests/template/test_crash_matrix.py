"""A process dies at each named point, on each database: nothing is lost, nothing doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from chaos.case import DATABASES, Database, Result
from chaos.counting import count
from chaos.matrix import table, written
from chaos.points import POINTS
from tests.template.baking import ROOT, clean_environment

LIMIT = 900.0  # seconds for all of it; a guard against what hangs; it takes about 30

pytestmark = pytest.mark.timeout(LIMIT + 60)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """One run of the whole matrix, in a process that may fork."""
    file = tmp_path_factory.mktemp("matrix") / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "chaos.matrix", "--json", str(file)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )
    assert file.exists(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return [Result(**result) for result in found]


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("point", [point.name for point in POINTS])
def test_nothing_is_lost_or_doubled_when_a_process_dies(
    point: str, database: Database, results: list[Result]
) -> None:
    [result] = [r for r in results if (r.point, r.database) == (point, database)]
    assert result.holds, str(result)
    assert result.events >= 16


def test_the_page_shows_what_the_run_came_to(results: list[Result]) -> None:
    assert written() == table(results), "`make crash-matrix` writes the table"


def test_a_point_that_no_process_reaches_is_a_fault() -> None:
    script = (
        "from chaos.matrix import run_all\n"
        "from chaos.points import Point, Role\n"
        "point = Point(Role.SERVICE, 'nowhere', lambda reach: None)\n"
        "print([fault.partition(':')[0] for r in run_all([point]) for fault in r.faults])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )
    assert done.stdout.strip() == str(["the point was never reached"] * 2), done.stderr


def test_what_differs_between_changes_and_effects_is_counted() -> None:
    changes = [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("b", 2)]
    assert not count(changes, changes)
    found = count(changes, [("a", 1), ("b", 1), ("a", 3), ("a", 2), ("b", 1), ("c", 7)])
    assert (found.lost, found.doubled, found.disordered, found.made_up) == (2, 1, 1, 1)


@pytest.mark.parametrize("loss", ["lost", "doubled", "disordered"])
def test_a_result_with_a_loss_does_not_hold(loss: str) -> None:
    result = Result("relay: anywhere", "sqlite", events=16)
    assert (result.holds, str(result)) == (True, "16 of 16, once, in order")
    setattr(result, loss, 1)
    assert not result.holds
    assert "1" in str(result).replace("16", "")
