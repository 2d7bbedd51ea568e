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

from tests.template.baking import ROOT, TEMPLATE, clean_environment

LIMIT = 600.0  # seconds; a guard against what hangs, and no measure of a machine
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
        "jetstream_bridge/inbox/batch.py",
        "known = claimed is not None and delivery.place not in claimed.fresh",
        "known = claimed is None",
        "tests/testing/test_guarantees.py::test_an_event_that_comes_twice_is_handled_once",
    ),
    Mutation(
        "the acknowledgement comes before the commit",
        "jetstream_bridge/inbox/single_run.py",
        "        handled = await apart(self._transactions.run(batch))\n",
        "        for delivery in batch:\n"
        "            await delivery.msg.ack()\n"
        "        handled = await apart(self._transactions.run(batch))\n",
        "tests/testing/test_guarantees.py::test_an_event_whose_commit_failed_is_handled_again",
    ),
    Mutation(
        "a handler's end of the transaction is not noticed",
        "jetstream_bridge/inbox/batch.py",
        "            if guard.suspects:\n"
        """                await guard.check(f"the handler of {delivery.event_type!r}")\n""",
        "",
        "tests/inbox/test_transaction_control.py"
        "::test_what_a_handler_does_to_the_transaction_harms_itself_only[sqlite-mock-inbox]",
    ),
    Mutation(
        "deliveries count as tries",
        "jetstream_bridge/inbox/single_run.py",
        "            return delivery.tries if failures is None else failures",
        "            return delivery.tries",
        "tests/inbox/test_tries.py"
        "::test_an_event_that_was_only_held_through_deploys_has_all_its_tries[sqlite-mock-inbox]",
    ),
    Mutation(
        "a suspect runs beside others",
        "jetstream_bridge/inbox/single_run.py",
        "        async with self._isolation.alone():",
        "        async with self._isolation.shared():",
        "tests/inbox/test_tries.py"
        "::test_a_suspect_runs_with_none_beside_it_and_its_start_is_noted[sqlite-mock-no inbox]",
    ),
    Mutation(
        "what is not the event's fault counts as a try",
        "jetstream_bridge/inbox/single_run.py",
        "                if fault is Fault.EVENT:\n                    return await self._failed",
        "                if fault is not Fault.RACE:\n"
        "                    return await self._failed",
        "tests/inbox/test_worker_faults.py"
        "::test_what_is_not_the_events_fault_counts_no_try[7-sqlite-mock]",
    ),
    Mutation(
        "the mock has no duplicate window",
        "jetstream_bridge/testing/stream.py",
        "        if known is not None:\n",
        "        if known is None and msg_id in self._known:\n",
        "tests/testing/test_outages.py::test_a_lost_ack_makes_no_second_copy_and_burns_nothing",
    ),
    Mutation(
        "two relays take the same rows of SQLite",
        "jetstream_bridge/outbox/claims.py",
        "if rows and not await self._is_ours():",
        "if not rows:",
        "tests/outbox/test_lanes.py"
        "::test_only_one_relay_works_on_sqlite_and_another_takes_over_when_it_stops",
    ),
    Mutation(
        "what a dead relay sent is not looked for",
        "jetstream_bridge/outbox/unconfirmed.py",
        "        for note in await self._notes.stale():\n"
        "            if not await self._look(note, deadline):\n"
        "                return False\n",
        "        for note in await self._notes.stale():\n",
        "tests/outbox/test_unconfirmed.py"
        "::test_what_a_dead_relay_sent_is_looked_for_before_anything_is_sent[sqlite-mock]",
    ),
    Mutation(
        "a relay forgets what it could not mark",
        "jetstream_bridge/outbox/unconfirmed.py",
        "        self._unsettled.update(sent)\n",
        "",
        "tests/outbox/test_unconfirmed.py"
        "::test_a_relay_remembers_what_it_sent_while_the_database_was_away[sqlite-mock]",
    ),
    Mutation(
        "a claim lasts as long as its longest chain",
        "jetstream_bridge/outbox/rounds.py",
        "TURNS_BUDGET = 0.25",
        "TURNS_BUDGET = 5.0",
        "tests/outbox/test_chains.py::test_a_hot_resource_does_not_delay_its_own_lane[sqlite-mock]",
    ),
    Mutation(
        "two relays take the same lanes of PostgreSQL",
        "jetstream_bridge/outbox/claims.py",
        "\n       FOR UPDATE OF l SKIP LOCKED",
        "",
        "tests/outbox/test_lanes.py"
        "::test_claims_of_two_relays_do_not_overlap_and_busy_lanes_take_turns",
    ),
    Mutation(
        "a floor rises above what may still be committed",
        "jetstream_bridge/outbox/floors.py",
        "self._note_writers(frozenset(writers))",
        "self._note_writers(frozenset())",
        "tests/outbox/test_floors.py"
        "::test_an_event_that_is_committed_late_goes_with_the_next_claim",
    ),
    Mutation(
        "a savepoint that was not released leaves its events",
        "jetstream_bridge/outbox/sessions.py",
        "        pending.cut(mark)\n",
        "",
        "tests/outbox/test_shared_fate.py"
        "::test_a_savepoint_whose_own_flush_fails_takes_its_event_with_it[sqlite]",
    ),
    Mutation(
        "what the client refuses to send is an outage",
        "jetstream_bridge/nats/publishing.py",
        "elif flaw := flaw_of(message, client.max_payload):",
        "elif flaw := None:",
        "tests/outbox/test_odd_rows.py"
        "::test_an_odd_row_is_refused_and_its_neighbours_go_on_at_full_speed[sqlite-mock]",
    ),
    Mutation(
        "a duplicate is not compared with what is stored",
        "jetstream_bridge/outbox/duplicates.py",
        '        if stored.get("subject") == message.subject and same_body:\n',
        "        if same_body or not same_body:\n",
        "tests/outbox/test_duplicates.py"
        "::test_an_event_that_was_dropped_for_anothers_with_its_id_has_failed[sqlite-mock]",
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
    """A copy of what its tests need.

    What was compiled is copied too, with the times of the sources: only what is mutated is
    compiled anew, and `run_tests` leaves nothing of it behind.
    """
    copy = tmp_path / "repository"
    skipped = shutil.ignore_patterns(".*", "_*cookiecutter*")
    for folder in ("app", "jetstream_bridge", "migrations"):
        shutil.copytree(TEMPLATE / folder, copy / TEMPLATE.name / folder, ignore=skipped)
    of_the_package = shutil.ignore_patterns("template")
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=of_the_package)
    shutil.copy(ROOT / "pyproject.toml", copy)
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
    change(template / TEMPLATE.name / mutation.file, mutation.text, mutation.other)
    done = run_tests(template, mutation.test)
    assert done.returncode == SOME_FAILED, done.stdout + done.stderr
    assert mutation.test in done.stdout


def test_a_text_that_is_not_there_is_told(template: Path) -> None:
    with pytest.raises(AssertionError, match="write this mutation anew"):
        change(template / TEMPLATE.name / "jetstream_bridge/outbox/claims.py", "no such text", "")
