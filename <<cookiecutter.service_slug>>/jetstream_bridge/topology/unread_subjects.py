"""Events that wait in the stream and that nobody reads: a work queue keeps them for ever.

A destination that was misspelt or does not exist yet, and one that was renamed while events
waited, look alike from here: a subject of this service with messages and without a consumer. It
is no fault of the process, so it is told, in the log and beside the check of the stream, and
nothing fails for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from nats.errors import Error as NatsError

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.core.subjects import matches
from jetstream_bridge.nats.management import Json, StreamApi

logger = logging.getLogger(__name__)

FIRST_LOOK, EVERY = 3.0, 60.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadSubject:
    """A subject on which events wait and which no consumer reads."""

    subject: str
    waiting: int
    remedy: str

    def __str__(self) -> str:
        events = "1 event waits" if self.waiting == 1 else f"{self.waiting:,} events wait"
        return f"{events} on {self.subject}, which nobody reads; {self.remedy}"


async def find_unread(api: StreamApi, config: BridgeConfig) -> list[UnreadSubject]:
    """Ask for the subjects from and to this service on which events wait unread."""
    counts = await _counts(api, config)
    if not counts:
        return []
    readers = [_filters(info) for info in await api.consumers(config.stream)]
    return [
        UnreadSubject(subject=subject, waiting=count, remedy=_remedy(config, subject))
        for subject, count in sorted(counts.items())
        if not _is_read(readers, subject)
    ]


async def _counts(api: StreamApi, config: BridgeConfig) -> dict[str, int]:
    """How many events the stream holds on each subject of this service, dead letters excepted."""
    counts: dict[str, int] = {}
    env, app = config.env, config.app_name
    for wanted in (f"{env}.{app}.sync.*", f"{env}.*.sync.{app}"):
        info = await api.stream_info(config.stream, count=wanted)
        if info is not None:
            counts |= info["state"].get("subjects") or {}
    counts.pop(config.names.dead_letter, None)
    return counts


def _filters(consumer: Json) -> list[str]:
    config = consumer["config"]
    several: list[str] = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
    return several


def _is_read(readers: Iterable[list[str]], subject: str) -> bool:
    return any(matches(pattern, subject) for filters in readers for pattern in filters)


def _remedy(config: BridgeConfig, subject: str) -> str:
    names, (_, source, _, destination) = config.names, subject.split(".")
    if subject == names.publish(config.destination_app):
        return f"start {destination}, or correct DESTINATION_APP"
    if source == config.app_name:
        return f"is {destination} an earlier DESTINATION_APP? start it, or purge the subject"
    if subject == names.subscribe(config.destination_app):
        return "start this service's worker, which makes the consumer"
    return f"is {source} an earlier DESTINATION_APP? handle it with source={source!r}, or purge it"


class UnreadWatch:
    """Looks from time to time, and says in the log what is new.

    `own`: the subjects that this process reads itself. Its consumers may not be there yet when it
    looks first, and readiness says so where they cannot be made.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[list[UnreadSubject]]], *, own: Collection[str] = ()
    ) -> None:
        self._ask = ask
        self._own = frozenset(own)
        self._told: set[str] = set()
        self._looked = False
        self.found: list[UnreadSubject] = []

    async def run(self) -> None:
        """Look for as long as the process runs; what cannot be asked is asked again soon."""
        while True:
            pause = EVERY if self._looked else FIRST_LOOK
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))
            await self.look()

    @property
    def detail(self) -> str | None:
        """What readiness says of it; None while all that waits has a reader."""
        return "; ".join(map(str, self.found)) or None

    async def look(self) -> None:
        """Look once; what cannot be asked leaves what was found before."""
        try:
            found = await self._ask()
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            logger.debug("it is not known whether all events have a reader: %s", error)
            return
        self._looked = True
        self.found = [unread for unread in found if unread.subject not in self._own]
        for unread in self.found:
            if unread.subject not in self._told:
                logger.warning("%s", unread)
        self._told = {unread.subject for unread in self.found}
