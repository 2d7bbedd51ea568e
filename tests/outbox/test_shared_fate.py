"""An event shares the fate of what was written beside it, whatever becomes of either.

The oracle is the database: each event has a marker row that was written beside it, and after any
history of savepoints, flushes, failures and rollbacks both are there, or neither.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, String, Table, event, insert, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session, registry
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.errors import SessionEndedError
from jetstream_bridge.outbox import sessions as outbox_session
from jetstream_bridge.outbox.sessions import NewEvent, Outbox
from tests.bridge.support import Sessions, database, envelope, rows

markers = Table("markers", MetaData(), Column("id", String, primary_key=True))


class Marker:
    def __init__(self, id: str) -> None:
        self.id = id


registry().map_imperatively(Marker, markers)

EXISTING = "existing"
ANNOUNCED = text(
    "SELECT event_id FROM jetstream_outbox_events WHERE event_id > :first ORDER BY event_id"
)
MARKED = text("SELECT id FROM markers WHERE id > :first ORDER BY id")
OUTBOX = Outbox(notify=False)


class BoomError(Exception):
    """What a route raises."""


FAILURES = (BoomError, IntegrityError, InvalidRequestError, SessionEndedError)


def new(event_id: str) -> NewEvent:
    return NewEvent(event_id, "test.a.sync.b", envelope(event_id), {})


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    async with database(database_url) as (engine, sessions):
        async with engine.begin() as connection:
            await connection.run_sync(markers.create)
            await connection.execute(insert(markers), {"id": EXISTING})
        yield engine, sessions


async def committed(engine: AsyncEngine) -> tuple[list[str], list[str]]:
    """Return the ids of the events and those of the markers, in order."""
    events = await rows(engine, "SELECT event_id FROM jetstream_outbox_events ORDER BY 1")
    marked = await rows(engine, f"SELECT id FROM markers WHERE id <> '{EXISTING}' ORDER BY 1")
    return [row[0] for row in events], [row[0] for row in marked]


# --- random histories


@dataclass(frozen=True)
class Write:
    """A marker and its event; how they are written, and which comes first."""

    through: str  # add, flush, or core
    event_first: bool


@dataclass(frozen=True)
class Savepoint:
    steps: tuple[Any, ...]
    # released, raised, rolled back by hand, left open, or the outer one ended by hand first
    end: str
    caught: bool


SIMPLE = st.one_of(
    st.builds(Write, st.sampled_from(["add", "flush", "core"]), st.booleans()),
    st.builds(Write, st.sampled_from(["add", "flush", "core"]), st.booleans()),
    st.sampled_from(["duplicate", "core duplicate", "flush", "query", "boom"]),
)
ENDS = ["release", "release", "release", "boom", "rollback", "open"]
STEPS = st.recursive(
    SIMPLE,
    lambda inner: st.builds(
        Savepoint,
        st.lists(inner, max_size=4).map(tuple),
        st.sampled_from(ENDS),
        st.sampled_from([True, True, True, False]),
    ),
    max_leaves=10,
)
LASTS = ["commit", "commit", "commit the root", "commit the root", "rollback", "close"]
TRANSACTIONS = st.lists(
    st.tuples(st.lists(STEPS, max_size=6), st.sampled_from(LASTS)), min_size=1, max_size=3
)


class History:
    """Runs the steps of a history in one session."""

    def __init__(self, session: AsyncSession, numbers: Iterator[int]) -> None:
        self._async = session
        self._session: Session = session.sync_session
        self._numbers = numbers
        self.refused: set[str] = set()  # the program was told: what it wrote is its own affair

    def transaction(self, steps: list[Any], last: str) -> None:
        root = self._session.begin()
        try:
            self._run(steps)
            self._end(root, last)
        except FAILURES:
            self._session.rollback()

    def _end(self, root: Any, last: str) -> None:
        if last == "commit":
            self._session.commit()
        elif last == "commit the root":
            root.commit()
        elif last == "rollback":
            self._session.rollback()
        else:
            self._session.close()

    def _run(self, steps: list[Any] | tuple[Any, ...]) -> None:
        for step in steps:
            if isinstance(step, Savepoint):
                self._savepoint(step)
            elif isinstance(step, Write):
                self._write(step)
            else:
                self._other(step)

    def _savepoint(self, step: Savepoint) -> None:
        try:
            if step.end == "open":
                self._session.begin_nested()
                self._run(step.steps)
                return
            with self._session.begin_nested() as savepoint:
                self._run(step.steps)
                if step.end == "boom":
                    raise BoomError
                if step.end == "rollback":
                    savepoint.rollback()
        except FAILURES:
            if not step.caught:
                raise

    def _write(self, step: Write) -> None:
        name = f"m{next(self._numbers):06}"
        if step.event_first:
            self._publish(name)
        if step.through == "core":
            self._session.execute(insert(markers), {"id": name})
        else:
            self._session.add(Marker(name))
        if step.through == "flush":
            self._session.flush()
        if not step.event_first:
            self._publish(name)

    def _publish(self, name: str) -> None:
        try:
            OUTBOX.add(self._async, new(name))
        except SessionEndedError:
            self.refused.add(name)
            raise

    def _other(self, step: str) -> None:
        if step == "duplicate":
            self._session.add(Marker(EXISTING))
        elif step == "core duplicate":
            self._session.execute(insert(markers), {"id": EXISTING})
        elif step == "flush":
            self._session.flush()
        elif step == "query":
            self._session.execute(text("SELECT count(*) FROM markers"))
        else:
            raise BoomError


@pytest.mark.filterwarnings("ignore:Session's state has been changed on a non-active transaction")
@pytest.mark.parametrize("autoflush", [True, False])
async def test_after_any_history_the_events_are_those_of_the_rows_beside_them(
    place: tuple[AsyncEngine, Sessions], autoflush: bool
) -> None:
    engine, sessions = place
    numbers = itertools.count()

    # Run where the drivers may wait: hypothesis itself knows no `await`.
    @settings(max_examples=settings().max_examples * 6 // 10)
    @given(TRANSACTIONS)
    def check(transactions: list[tuple[list[Any], str]]) -> None:
        session = AsyncSession(engine, autoflush=autoflush, expire_on_commit=False)
        history = History(session, numbers)
        first = {"first": f"m{next(numbers):06}"}
        try:
            for steps, last in transactions:
                history.transaction(steps, last)
        finally:
            session.sync_session.close()
        with Session(engine.sync_engine) as reader:
            events = reader.scalars(ANNOUNCED, first).all()
            marked = reader.scalars(MARKED, first).all()
        assert events == marked

    async with sessions() as session:
        await session.run_sync(lambda _: check())
    events, _ = await committed(engine)
    assert len(events) > 10, "some histories commit"


# --- the histories that taught this


async def test_a_savepoint_whose_own_flush_fails_takes_its_event_with_it(
    place: tuple[AsyncEngine, Sessions],
) -> None:
    engine, sessions = place
    async with sessions() as session:
        session.add(Marker("kept"))
        OUTBOX.add(session, new("kept"))
        try:
            async with session.begin_nested():
                session.add(Marker(EXISTING))
                OUTBOX.add(session, new("lost"))
        except IntegrityError:
            await session.commit()
    assert await committed(engine) == (["kept"], ["kept"])


async def test_a_commit_ends_the_savepoints_that_were_left_open_and_announces_their_events(
    place: tuple[AsyncEngine, Sessions],
) -> None:
    engine, sessions = place
    async with sessions.begin() as session:
        OUTBOX.add(session, new("outer"))
        session.add(Marker("outer"))
        await session.begin_nested()
        await session.begin_nested()
        OUTBOX.add(session, new("inner"))
        session.add(Marker("inner"))
    assert await committed(engine) == (["inner", "outer"], ["inner", "outer"])


async def test_a_savepoint_released_by_hand_with_one_open_inside_keeps_the_events_of_both(
    place: tuple[AsyncEngine, Sessions],
) -> None:
    engine, sessions = place
    async with sessions() as session:
        outer = await session.begin_nested()
        OUTBOX.add(session, new("outer"))
        await session.begin_nested()
        OUTBOX.add(session, new("inner"))
        await outer.commit()
        await session.commit()
    assert (await committed(engine))[0] == ["inner", "outer"]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_session_inside_a_transaction_of_others_announces_when_that_commits(
    place: tuple[AsyncEngine, Sessions], kept: bool
) -> None:
    engine, _ = place
    async with engine.connect() as connection:
        around = await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            async with session.begin_nested():
                session.add(Marker("m"))
                OUTBOX.add(session, new("m"))
            await session.commit()
        await (around.commit() if kept else around.rollback())
    assert await committed(engine) == ((["m"], ["m"]) if kept else ([], []))


async def test_many_savepoints_cost_each_the_same(place: tuple[AsyncEngine, Sessions]) -> None:
    """What 400 take is twice what 200 take, counted in lines of the module that run."""
    _, sessions = place
    few, many = [await lines_run(sessions, number) for number in (200, 400)]
    assert many < few * 2.1


async def lines_run(sessions: Sessions, number: int) -> int:
    async with sessions() as session:

        def publish(sync: Session) -> int:
            with counted_lines(outbox_session.__file__) as lines:
                for n in range(number):
                    with sync.begin_nested():
                        OUTBOX.add(session, new(f"e{n}"))
            return lines[0]

        count = await session.run_sync(publish)
        await session.rollback()
    return count


@contextmanager
def counted_lines(file: str) -> Iterator[list[int]]:
    lines = [0]

    def count(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            lines[0] += 1
        return count if frame.f_code.co_filename == file else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield lines
    finally:
        sys.settrace(before)


# --- prepared transactions


@pytest.mark.parametrize("kept", [True, False])
async def test_a_prepared_transaction_announces_its_events_when_it_is_committed(
    postgres_url: str, kept: bool
) -> None:
    """In a process without a relay, which would tell the others': a prepared one may not."""
    async with database(postgres_url) as (engine, _):
        async with AsyncSession(engine, twophase=True) as session:
            Outbox(notify=True).add(session, new("e1"))
            await session.run_sync(lambda sync: sync.prepare())
            assert await rows(engine, "SELECT event_id FROM jetstream_outbox_events") == []
            with pytest.raises(SessionEndedError, match="commit is under way"):
                OUTBOX.add(session, new("late"))
            await (session.commit() if kept else session.rollback())
        found = await rows(engine, "SELECT event_id FROM jetstream_outbox_events")
        assert [row.event_id for row in found] == (["e1"] if kept else [])


async def test_a_two_phase_commit_at_once_announces_its_events(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        async with AsyncSession(engine, twophase=True) as session, session.begin():
            Outbox(notify=True).add(session, new("e1"))
        assert await rows(engine, "SELECT 1 FROM jetstream_outbox_events") == [(1,)]


# --- what nobody would commit any more


async def test_after_an_error_has_ended_the_transaction_nothing_can_be_announced(
    place: tuple[AsyncEngine, Sessions],
) -> None:
    _, sessions = place
    async with sessions() as session:
        session.add(Marker(EXISTING))
        with pytest.raises(IntegrityError):
            await session.flush()
        with pytest.raises(SessionEndedError, match=r"e1 cannot .* roll that back"):
            OUTBOX.add(session, new("e1"))


async def test_an_event_published_amid_the_commit_is_refused(
    place: tuple[AsyncEngine, Sessions],
) -> None:
    engine, sessions = place
    async with sessions() as session:
        OUTBOX.add(session, new("e1"))

        @event.listens_for(engine.sync_engine, "commit")
        def committing(_: object) -> None:
            with pytest.raises(SessionEndedError, match="e2 cannot be announced"):
                OUTBOX.add(session, new("e2"))
            told.append("e2")

        told: list[str] = []
        await session.commit()
        assert told == ["e2"]
    event.remove(engine.sync_engine, "commit", committing)
    assert (await committed(engine))[0] == ["e1"]


async def test_a_session_that_was_closed_for_good_takes_no_event(
    place: tuple[AsyncEngine, Sessions],
) -> None:
    engine, _ = place
    async with AsyncSession(engine, close_resets_only=False) as session:
        await session.commit()
    with pytest.raises(SessionEndedError, match=r"session was closed.*in a background task open"):
        OUTBOX.add(session, new("e1"))


async def test_an_event_that_nobody_committed_is_told_of(
    place: tuple[AsyncEngine, Sessions], caplog: pytest.LogCaptureFixture
) -> None:
    _, sessions = place
    async with sessions() as session:
        await session.commit()
        OUTBOX.add(session, new("late"))
    assert "1 events, late first, are not announced" in caplog.text
    caplog.clear()
    async with sessions() as session:
        await session.connection()
        OUTBOX.add(session, new("beside a change that is not kept either"))
    async with sessions() as session:
        OUTBOX.add(session, new("rolled back on purpose"))
        await session.rollback()
    assert caplog.text == ""
