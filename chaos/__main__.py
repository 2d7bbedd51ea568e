"""`make chaos SEED=... MINUTES=...`: everything at random, and then everything is counted.

Status 0: every acknowledged change took effect once, what comes in order came in order, no dead
letter is without a cause, nothing is left, and every probe told the truth while it lasted.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from chaos import ROOT
from chaos.counting import rows
from chaos.history import Stored, history
from chaos.injecting import Book, Injector
from chaos.plan import Fault, make_plan
from chaos.probes import Sampler, untruths
from chaos.town import ENV, PEERS, STREAM, Member, Town
from chaos.verdict import judge
from chaos.writing import Writers

_BUILD = ROOT / "build"  # no part of the repository
_READY_WITHIN = 90.0  # seconds after the start, and after the last fault
_SETTLED_WITHIN = 120.0  # seconds; a handler may take ten, and be begun again after each death
_STOPPED_WITHIN = 30.0  # seconds
_PAUSE = 0.2  # seconds between two looks
_TERMINATED = 143
_SHOWN = 20  # violations of one kind
_WAITING = "SELECT count(*) FROM jetstream_outbox_events WHERE status IN ('pending', 'publishing')"


class Run:
    """One run: what is planned, what happened, and what of it should not have."""

    def __init__(self, town: Town, seed: int, seconds: float) -> None:
        self._town = town
        self._seed = seed
        self._seconds = seconds
        self.book = Book()
        self.plan: list[Fault] = []
        self._writers = Writers(town, seed)
        self.summary = ""

    def run(self) -> list[str]:
        """Return what did not hold."""
        town, book = self._town, self.book
        self._all_ready("after the start")
        self.plan = make_plan(self._seed, self._seconds, list(town.members))
        book.started = time.monotonic()
        sampler = Sampler(town, book)
        print(f"all are ready; {len(self.plan)} faults are planned", flush=True)
        try:
            sampler.start()
            self._writers.start()
            Injector(town, book).run(self.plan)
            self._all_ready("after the last fault")
        finally:
            self._writers.stop()
            sampler.stop()
        print(f"{book.now():.0f} s: all are ready again; the rest is done now", flush=True)
        stored = asyncio.run(self._settle())
        print(f"{book.now():.0f} s: nothing is left to do", flush=True)
        self._stop_all()
        book.violations.extend(judge(town, self._writers.acknowledged, stored))
        book.violations.extend(list(untruths(sampler.samples, book.windows))[:_SHOWN])
        self.summary = (
            f"{sum(map(len, self._writers.acknowledged.values()))} changes acknowledged, "
            f"{self._writers.refused} not, {len(stored)} messages, {len(book.windows)} faults, "
            f"{len(sampler.samples)} answers of probes"
        )
        return book.violations

    def _all_ready(self, when: str) -> None:
        waiting = list(self._town.members.values())
        deadline = time.monotonic() + _READY_WITHIN
        while waiting and time.monotonic() < deadline:
            waiting = [member for member in waiting if member.readiness()]
            time.sleep(_PAUSE)
        for member in waiting:
            self.book.violations.append(
                f"{member.name} was not ready within {_READY_WITHIN:g} s {when}; it says: "
                + member.readiness()
            )

    async def _settle(self) -> list[Stored]:
        """Wait until nothing is left to do; return the stream's history."""
        client = await nats.connect(self._town.nats.url)
        js = client.jetstream()
        deadline = time.monotonic() + _SETTLED_WITHIN
        left = "nothing is known"
        while left and time.monotonic() < deadline:
            await asyncio.sleep(_PAUSE)
            with suppress(NatsError, OSError, TimeoutError):
                left = await self._left(js)
        if left:
            self.book.violations.append(f"after {_SETTLED_WITHIN:g} s there is left: {left}")
        stored = await history(js, STREAM)
        await client.close()
        return stored

    async def _left(self, js: JetStreamContext) -> str:
        """What is left to do; empty when there is nothing."""
        left = []
        for app in PEERS:
            found = await asyncio.to_thread(rows, self._town.database_url(app), _WAITING)
            if found[0][0]:
                left.append(f"{found[0][0]} events in the outbox of {app}")
            info = await js.consumer_info(STREAM, f"{ENV}-{app}-workers")
            if info.num_pending or info.num_ack_pending:
                left.append(
                    f"{info.num_pending} events for {app}, and {info.num_ack_pending} in hand"
                )
        return ", ".join(left)

    def _stop_all(self) -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(self._stop, self._town.members.values()))

    def _stop(self, member: Member) -> None:
        if not member.process.is_running:
            status = member.process.status
            self.book.violations.append(f"{member.name} ended by itself with {status}")
            return
        status = member.process.stop(grace=_STOPPED_WITHIN)
        if status not in member.good_statuses:
            self.book.violations.append(f"{member.name}, told to stop, ended with {status}")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that stays when the body raises or leaves with a status other than 0."""
    _BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=_BUILD))
    yield folder
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the plan; else one is drawn")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long things go wrong")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # all ends in order then
    with _folder() as folder:
        town = Town(folder)
        print(f"seed {seed}, {arguments.minutes:g} minutes; the logs are in {folder}", flush=True)
        with town.running():
            run = Run(town, seed, arguments.minutes * 60)
            violations = run.run()
        print(run.summary)
        if violations:
            _explain(run, violations, seed, arguments.minutes)
            raise SystemExit(1)


def _explain(run: Run, violations: list[str], seed: int, minutes: float) -> None:
    print(f"\nmake chaos SEED={seed} MINUTES={minutes:g}\n\nWhat happened, in seconds:")
    for window in sorted(run.book.windows, key=lambda window: window.begin):
        print(f"  {window}")
    print("\nWhat did not hold:")
    for violation in violations:
        print(f"  {violation}")


if __name__ == "__main__":
    main()
