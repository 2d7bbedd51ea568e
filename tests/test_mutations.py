"""Take a guarantee's mechanism away, and a test that is named here fails.

Each change is one exact text for another, in a copy of the template. A text that is not there
(because the code was rewritten) is an error of this file, told as such.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from baking import TEMPLATE, clean_environment

LIMIT = 120.0  # seconds for one test of the template
ALL_PASSED, SOME_FAILED = 0, 1  # pytest's exit statuses; others say that it did not run


@dataclass(frozen=True)
class Mutation:
    """In `file`, `text` becomes `other`; then `test` fails."""

    name: str
    file: str
    text: str
    other: str
    test: str


MUTATIONS = (
    Mutation(
        "the inbox is not asked",
        "app/bridge/batch.py",
        "if fresh is not None and delivery.seq not in fresh:",
        "if fresh is None:",
        "tests/mock/test_guarantees.py::test_an_event_that_comes_twice_is_handled_once",
    ),
    Mutation(
        "the acknowledgement comes before the commit",
        "app/bridge/consumer.py",
        "        handled = await self._transactions.run(batch)\n",
        "        for delivery in batch:\n"
        "            await delivery.msg.ack()\n"
        "        handled = await self._transactions.run(batch)\n",
        "tests/mock/test_guarantees.py::test_an_event_whose_commit_failed_is_handled_again",
    ),
    Mutation(
        "the mock has no duplicate window",
        "app/bridge/testing/stream.py",
        "        if known is not None:\n",
        "        if known is None and msg_id in self._known:\n",
        "tests/mock/test_outages.py::test_a_lost_ack_makes_no_second_copy_and_burns_nothing",
    ),
    Mutation(
        "two relays take the same rows of SQLite",
        "app/bridge/lanes.py",
        "if rows and not await self._is_ours():",
        "if not rows:",
        "tests/bridge/test_lanes.py"
        "::test_only_one_relay_works_on_sqlite_and_another_takes_over_when_it_stops",
    ),
    Mutation(
        "two relays take the same lanes of PostgreSQL",
        "app/bridge/lanes.py",
        "\n       FOR UPDATE OF l SKIP LOCKED",
        "",
        "tests/bridge/test_lanes.py"
        "::test_claims_of_two_relays_do_not_overlap_and_busy_lanes_take_turns",
    ),
)


def run_tests(template: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--tb=short"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=template,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A copy of what its tests need."""
    copy = tmp_path / "service"
    skipped = shutil.ignore_patterns("__pycache__", ".*", "_*cookiecutter*")
    for folder in ("app", "tests", "migrations"):
        shutil.copytree(TEMPLATE / folder, copy / folder, ignore=skipped)
    for file in ("pyproject.toml", "alembic.ini"):
        shutil.copy(TEMPLATE / file, copy / file)
    return copy


def change(file: Path, text: str, other: str) -> None:
    """Put `other` in the place of `text`, which must be there once."""
    before = file.read_text(encoding="utf-8")
    found = before.count(text)
    assert found == 1, (
        f"{file.name} has {found} times and not once: {text!r}; "
        "the code was rewritten, so write this mutation anew"
    )
    file.write_text(before.replace(text, other), encoding="utf-8")


@pytest.mark.timeout(LIMIT + 20)
def test_the_named_tests_pass_as_long_as_nothing_is_taken_away(template: Path) -> None:
    done = run_tests(template, *(mutation.test for mutation in MUTATIONS))
    assert done.returncode == ALL_PASSED, done.stdout


@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_named_test_fails_without(mutation: Mutation, template: Path) -> None:
    change(template / mutation.file, mutation.text, mutation.other)
    done = run_tests(template, mutation.test)
    assert done.returncode == SOME_FAILED, done.stdout + done.stderr
    assert mutation.test in done.stdout


def test_a_text_that_is_not_there_is_told(template: Path) -> None:
    with pytest.raises(AssertionError, match="write this mutation anew"):
        change(template / "app/bridge/lanes.py", "no such text", "")
