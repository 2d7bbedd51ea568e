"""One case of the crash matrix: a process dies at its point, another goes on, all is counted.

The whole way is walked each time: changes are written, relayed and handled. One process on that
way dies at the point. New changes of the same resources follow at once, so that what the dead one
had in hand could be overtaken. Then a successor does the rest.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nats

from chaos import roles
from chaos.counting import Change, changes_of, count, execute, rows
from chaos.points import Death, Point, Role
from chaos.roles import CLAIM, FLAKY, POISON, Place

Database = Literal["postgresql", "sqlite"]
DATABASES: tuple[Database, ...] = ("postgresql", "sqlite")

_FIRST: list[Change] = [(resource, version) for version in (1, 2, 3) for resource in "abcd"]
_LATER: list[Change] = [(resource, 4) for resource in "abcd"]
_ONE_BAD: list[Change] = [*_FIRST[:6], (POISON, 1), *_FIRST[6:]]
_ONE_FLAKY: list[Change] = [*_FIRST[:6], (FLAKY, 1), *_FIRST[6:]]
_OLD_ROWS = "SELECT event_id, status FROM {table} WHERE event_id LIKE 'old-%' ORDER BY event_id"
_LAST_LINES = 30  # of a log


@dataclass(frozen=True)
class Servers:
    """What all cases share: the servers, and databases to make copies of."""

    nats_url: str
    postgres_url: str  # of the database `postgres`
    folder: Path


@dataclass
class Result:
    """What became of the events of one case."""

    point: str
    database: Database
    events: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    repeated: int = 0  # sent again by the relay's successor, and dropped by the stream
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.doubled or self.disordered or self.faults)

    def __str__(self) -> str:
        """One cell of the table."""
        if self.holds:
            return f"{self.events} of {self.events}, once, in order"
        counts = f"{self.lost} lost, {self.doubled} doubled, {self.disordered} out of order"
        return "; ".join([counts, *self.faults])


class CaseError(Exception):
    """A process of the case did not do what it was begun for."""


def run(point: Point, database: Database, servers: Servers) -> Result:
    """Run one case; what goes wrong is in the result, and nothing is raised."""
    case = _Case(point, database, servers)
    try:
        case.run()
    except (CaseError, OSError) as error:
        case.result.faults.append(str(error))
    return case.result


class _Case:
    def __init__(self, point: Point, database: Database, servers: Servers) -> None:
        self.result = Result(point.name, database)
        self._point = point
        self._name = "-".join([database, *point.name.replace(",", "").replace(":", "").split()])
        self._folder = servers.folder / self._name
        self._folder.mkdir()
        self._log = self._folder / "processes.log"
        self._published_before = 0  # by the receiver
        old = point.role is Role.MIGRATION
        self._place = Place(
            env=self._name,
            nats_url=servers.nats_url,
            orders_url=self._copy("orders", servers),
            billing_url=self._copy("billing_old" if old else "billing", servers),
            runs=self._folder / "runs",
        )

    def _copy(self, template: str, servers: Servers) -> str:
        if self.result.database == "sqlite":
            path = self._folder / f"{template}.sqlite3"
            shutil.copyfile(servers.folder / path.name, path)
            return f"sqlite+aiosqlite:///{path}"
        name = f"{self._name}-{template}"[-63:]
        asyncio.run(execute(servers.postgres_url, f'CREATE DATABASE "{name}" TEMPLATE {template}'))
        return servers.postgres_url.replace("/postgres?", f"/{name}?")

    def run(self) -> None:
        {
            Role.SERVICE: self._service,
            Role.RELAY: self._relay,
            Role.WORKER: self._worker,
            Role.REPLAY: self._replay,
            Role.MIGRATION: self._migration,
        }[self._point.role]()
        self._count()

    # --- the ways

    def _service(self) -> None:
        self._dies(roles.write(self._place, _FIRST))
        self._does(roles.write(self._place, [*_FIRST, *_LATER]))
        self._relay_to_the_end()
        self._work_to_the_end()

    def _relay(self) -> None:
        self._does(roles.write(self._place, _FIRST))
        self._dies(roles.relay(self._place))
        self._does(roles.write(self._place, _LATER))
        self._relay_to_the_end()
        self._work_to_the_end()

    def _worker(self) -> None:
        letter = "letter" in self._point.when
        back = "gives an event back" in self._point.when
        self._does(roles.write(self._place, _ONE_BAD if letter else _ONE_FLAKY if back else _FIRST))
        self._relay_to_the_end()
        self._dies(roles.work(self._place))
        self._does(roles.write(self._place, _LATER))
        self._relay_to_the_end()
        self._work_to_the_end()

    def _replay(self) -> None:
        self._does(roles.write(self._place, [*_ONE_BAD, *_LATER]))
        self._relay_to_the_end()
        self._work_to_the_end()
        self._dies(roles.replay(self._place))
        self._does(roles.replay(self._place))
        self._does(roles.work(self._place, poisoned=False))

    def _migration(self) -> None:
        before = self._old_rows()
        self._published_before = len(before) // 2
        self._does(roles.write(self._place, [*_FIRST, *_LATER]))
        self._relay_to_the_end()
        self._dies(roles.bring_up_to_date(self._place))
        self._does(roles.bring_up_to_date(self._place))
        if self._old_rows() != before:
            self.result.faults.append("rows from before the migration are not what they were")
        self._work_to_the_end()

    def _relay_to_the_end(self) -> None:
        repeated = self._does(roles.relay(self._place))
        self.result.repeated += repeated
        if repeated > CLAIM:
            self.result.faults.append(f"{repeated} events were sent twice; a claim has {CLAIM}")

    def _work_to_the_end(self) -> None:
        self._does(roles.work(self._place))

    def _old_rows(self) -> list[tuple[Any, ...]]:
        return [
            tuple(row)
            for table in ("jetstream_outbox_events", "jetstream_inbox_events")
            for row in rows(self._place.billing_url, _OLD_ROWS.format(table=table))
        ]

    # --- the processes

    def _does(self, work: Coroutine[Any, Any, int | None]) -> int:
        """Do `work` in a process of its own; return what it returns."""
        status = self._fork(work, None)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) < _FAILED:
            return os.WEXITSTATUS(status)
        raise CaseError(f"a process ended with status {status}: {self._last_lines()}")

    def _dies(self, work: Coroutine[Any, Any, int | None]) -> None:
        """Do `work` in a process that dies at the case's point."""
        note = self._folder / "reached"
        status = self._fork(work, Death(self._point, note))
        reached = note.exists() and note.read_text(encoding="utf-8") == self._point.name
        if not reached:
            raise CaseError(f"the point was never reached: {self._last_lines()}")
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise CaseError(f"the process ended with status {status} at its point")

    def _fork(self, work: Coroutine[Any, Any, int | None], death: Death | None) -> int:
        child = os.fork()
        if child == 0:
            _be(work, death, self._log)
        work.close()
        return os.waitpid(child, 0)[1]

    def _last_lines(self) -> str:
        if not self._log.exists():
            return "it said nothing"
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(["", *lines[-_LAST_LINES:]])

    # --- the count

    def _count(self) -> None:
        place, result = self._place, self.result
        made = set(changes_of(place.orders_url, "things"))
        effects = changes_of(place.billing_url, "effects", order="id")
        letters = {(POISON, 1)} & made if self._point.role is not Role.REPLAY else set()
        found = count(made - letters, effects)
        result.events = len(made) - len(letters)
        result.lost, result.doubled = found.lost, found.doubled
        result.disordered = found.disordered
        if found.made_up:
            result.faults.append(f"{found.made_up} effects of what was never made")
        published = rows(place.billing_url, "SELECT count(*) FROM jetstream_outbox_events")[0][0]
        if published - self._published_before != len(effects):
            result.faults.append(f"{len(effects)} effects, and {published} events of handlers")
        announced = rows(place.orders_url, "SELECT count(*) FROM jetstream_outbox_events")[0][0]
        if announced != len(made):
            result.faults.append(f"{len(made)} changes, and {announced} events")
        self._look_at_the_stream(len(made), len(letters))

    def _look_at_the_stream(self, events: int, letters: int) -> None:
        """Everything was stored once, and nothing is left but the letters."""
        stored, left = asyncio.run(_stream(self._place))
        back = 2 if self._point.role is Role.REPLAY else letters  # a letter, and its replay
        if stored != events + back:
            self.result.faults.append(f"{stored} messages were stored for {events + back}")
        if left != letters:
            self.result.faults.append(f"{left} messages are left in the stream, not {letters}")


_FAILED = 100  # exit statuses below it are a role's result


def _be(work: Coroutine[Any, Any, int | None], death: Death | None, log: Path) -> None:
    """Be the forked process, to its end."""
    status = _FAILED
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if death is not None:
            death.await_it()
        status = asyncio.run(work) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


async def _stream(place: Place) -> tuple[int, int]:
    """How many messages the stream ever stored, and how many it has."""
    client = await nats.connect(place.nats_url)
    state = (await client.jetstream().stream_info(place.stream)).state
    await client.close()
    return state.last_seq, state.messages
