"""`make crash-matrix`: a process dies at every named point, on both databases.

The table of what came of it is written into docs/guarantees.md, or compared with what stands
there. Status 0: every guarantee held at every point.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from app.settings import Settings
from chaos import ROOT
from chaos.case import DATABASES, Database, Result, Servers, run
from chaos.counting import rows
from chaos.points import POINTS, Point
from chaos.roles import TABLES
from demo.servers import NatsServer, PostgresServer
from jetstream_bridge.service.schema import migrate

PAGE = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- crash matrix -->\n", "<!-- end of the crash matrix -->\n"

_AT_ONCE = 8  # cases; most of one is waiting
_KEYS = {"postgresql": "BIGSERIAL", "sqlite": "INTEGER"}
# A database as it was before the last migration, with rows that must outlive it.
_OLD_REVISION = "0002"
_OLD_ROWS = (
    "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status) VALUES"
    " ('old-1', 's', '{}', 'sent'), ('old-2', 's', '{}', 'failed')",
    "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status) VALUES"
    " ('c', 'old-1', 's', 'processed'), ('c', 'old-2', 's', 'dead_lettered')",
)


def run_all(points: Sequence[Point] = POINTS) -> list[Result]:
    """Run every case; the results come in the order of the table."""
    _points[:] = points
    cases = [(number, database) for number in range(len(points)) for database in DATABASES]
    with _servers() as servers:
        # By fork: a process begins where the imports are over.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(_AT_ONCE, mp_context=context) as pool:
            running = [pool.submit(_run_numbered, *case, servers) for case in cases]
            return [case.result() for case in running]


_points: list[Point] = []  # a point is no value that can be sent to a process; a fork has it


def _run_numbered(number: int, database: Database, servers: Servers) -> Result:
    return run(_points[number], database, servers)


@contextmanager
def _servers() -> Iterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="matrix-"))
    try:
        with NatsServer() as nats, PostgresServer() as postgres:
            servers = Servers(nats.url, postgres.url(), folder)
            for name in ("orders", "billing", "billing_old"):
                postgres.create_database(name)
                _prepare(name, postgres.url(name), "postgresql")
                _prepare(name, f"sqlite+aiosqlite:///{folder / name}.sqlite3", "sqlite")
            yield servers
    finally:
        shutil.rmtree(folder)


def _prepare(name: str, url: str, database: Database) -> None:
    """Make the database that the cases copy."""
    old = name.endswith("_old")
    migrate(Settings.root, url, revision=_OLD_REVISION if old else "heads")
    rows(url, TABLES[name.removesuffix("_old")].format(key=_KEYS[database]))
    for statement in _OLD_ROWS if old else ():
        rows(url, statement)


def table(results: Sequence[Result]) -> str:
    """The results as the table of the page."""
    cells = {(result.point, result.database): result for result in results}
    lines = ["| killed | PostgreSQL | SQLite |", "|---|---|---|"]
    for point in dict.fromkeys(result.point for result in results):
        row = [point, *(str(cells[point, database]) for database in DATABASES)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def written() -> str:
    """The table that stands on the page."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(results: Sequence[Result]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{table(results)}{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.matrix", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--only", help="only points whose name contains this")
    arguments = parser.parse_args()
    begun = time.monotonic()
    chosen = [point for point in POINTS if (arguments.only or "") in point.name]
    results = run_all(chosen)
    print(table(results))
    print(f"{len(results)} deaths in {time.monotonic() - begun:.0f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(result) for result in results]))
    if arguments.write:
        write(results)
    raise SystemExit(0 if all(result.holds for result in results) else 1)


if __name__ == "__main__":
    main()
