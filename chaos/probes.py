"""What every process said about its health the whole time, and whether that was true.

A probe has to tell what lasts: it gets a few seconds to notice, and a longer time after a fault for
everything that goes on with growing pauses.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from chaos.injecting import Book, Window
from chaos.plan import DATABASE, NATS, Kind
from chaos.town import Member, Town

NOTICED = 4.0  # seconds after which a lasting fault must show
# Silence of NATS: three probes, 3 s apart, each with 2 s for its answer, and a new client.
SILENCE_NOTICED = 20.0  # seconds
RECOVERED = 30.0  # seconds after which a fault that is over must not show any more
_EVERY = 1.0  # seconds
_TIMEOUT = 3.0  # seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of one process, or none (`status` 0)."""

    asked: float
    answered: float
    member: str
    probe: str
    status: int
    body: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.asked:.1f} {self.member} {self.probe} {self.status} {self.body}"


class Sampler:
    """Asks every process, all the time, in a thread of its own."""

    def __init__(self, town: Town, book: Book) -> None:
        self._members = list(town.members.values())
        self._book = book
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="probes")
        self.samples: list[Sample] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client, asyncio.TaskGroup() as tasks:
            for member in self._members:
                tasks.create_task(self._watch(client, member))

    async def _watch(self, client: httpx.AsyncClient, member: Member) -> None:
        while not self._stopping.is_set():
            for probe in ("healthz", "readyz"):
                self.samples.append(await self._ask(client, member, probe))
            await asyncio.sleep(_EVERY)

    async def _ask(self, client: httpx.AsyncClient, member: Member, probe: str) -> Sample:
        asked = self._book.now()
        status, body = 0, {}
        try:
            answer = await client.get(f"{member.url}/{probe}")
            status, body = answer.status_code, answer.json()
        except (httpx.TransportError, ValueError):
            pass  # it is down, or frozen, or was ended amid its answer
        return Sample(asked, self._book.now(), member.name, probe, status, body)


def untruths(samples: Sequence[Sample], windows: Sequence[Window]) -> Iterator[str]:
    """The answers that were not true when they were given."""
    for sample in samples:
        if sample.status == 0:
            continue
        if sample.probe == "healthz":
            if sample.status != 200:
                yield f"no fault outside is a reason for a restart: {sample}"
        elif fault := _without_database(sample, windows):
            if sample.status == 200:
                yield f"ready, though {fault.fault}: {sample}"
        elif fault := _without_nats(sample, windows):
            if _hides_nats(sample):
                yield f"it does not tell that {fault.fault}: {sample}"
        elif sample.status != 200 and _is_quiet(sample, windows):
            yield f"not ready, though all is well: {sample}"


def _without_database(sample: Sample, windows: Sequence[Window]) -> Window | None:
    return _lasting(sample, windows, Kind.HOLD_DATABASE, sample.member, NOTICED) or _lasting(
        sample, windows, None, DATABASE, NOTICED
    )


def _without_nats(sample: Sample, windows: Sequence[Window]) -> Window | None:
    """While nothing arrives from NATS, neither does the news that NATS has gone."""
    if any(
        window.fault.kind is Kind.HOLD_NATS
        and window.fault.target == sample.member
        and window.begin <= sample.answered
        and sample.asked <= window.end + NOTICED
        for window in windows
    ):
        return _lasting(sample, windows, Kind.HOLD_NATS, sample.member, SILENCE_NOTICED)
    return _lasting(sample, windows, None, NATS, NOTICED)


def _lasting(
    sample: Sample, windows: Sequence[Window], kind: Kind | None, target: str, least: float
) -> Window | None:
    """The fault that had lasted `least` seconds when `sample` was asked for, and lasted on."""
    for window in windows:
        if (
            kind in (None, window.fault.kind)
            and window.fault.target == target
            and window.begin + least <= sample.asked
            and sample.answered <= window.over
        ):
            return window
    return None


def _hides_nats(sample: Sample) -> bool:
    """Workers are not ready without NATS; an API with the outbox is, and says what is missing."""
    is_worker = "worker" in sample.member
    shown = sample.body.get("checks", {}).get("nats", {}).get("ok") is False
    return not shown or (is_worker and sample.status == 200)


def _is_quiet(sample: Sample, windows: Sequence[Window]) -> bool:
    concerned = (sample.member, DATABASE, NATS)
    return not any(
        window.fault.target in concerned
        and window.begin <= sample.answered
        and sample.asked <= window.end + RECOVERED
        for window in windows
    )
