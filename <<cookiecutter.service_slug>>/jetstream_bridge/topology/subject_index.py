"""Which subjects lead into the stream, known without asking NATS.

A service may add its own subjects, `{env}.{app}.sync.*`, and an event for a new destination does.
Any other subject has to be in the stream already. As long as the stream has not been read, every
subject is taken: an event must not be refused because NATS is away.
"""

from __future__ import annotations

from collections.abc import Sequence

from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import BridgeError, StreamMissingError, UnknownSubjectError
from jetstream_bridge.core.limits import bounded
from jetstream_bridge.core.subjects import covered
from jetstream_bridge.topology.provisioning import Topology

REREAD_EVERY = 5.0  # seconds; another service may have added the subject since
REREAD_LIMIT = 2.0  # seconds that a publisher waits for the second look
SHOWN = 10  # subjects in an error; a large system's stream has hundreds
REMEMBERED = 1000  # subjects; a service may have one for each of its customers


class SubjectIndex:
    """The subjects of one service's stream, for its publishers and its relay."""

    def __init__(self, topology: Topology, config: BridgeConfig) -> None:
        self._topology = topology
        self._stream = config.stream
        self._own = f"{config.env}.{config.app_name}.sync."
        self._may_add = config.auto_provision
        self._known: tuple[str, ...] = ()
        self._taken: set[str] = set()  # subjects that were found to lead into the stream
        self._next_look = 0.0
        self._sure = True  # the last look was answered

    async def check(self, subject: str) -> None:
        """Raise `UnknownSubjectError` if the stream is known not to take `subject`.

        Asks NATS only about a subject that is not known, and not oftener than every 5 s.
        """
        if self._takes(subject):
            return
        if loop_time() >= self._next_look:
            self._next_look = loop_time() + REREAD_EVERY
            self._sure = await self._read_again()
        if not self._sure or self._takes(subject):
            return
        shown = ", ".join(self._known[:SHOWN])
        rest = f" and {len(self._known) - SHOWN} more" if len(self._known) > SHOWN else ""
        raise UnknownSubjectError(
            f"the stream {self._stream} takes no events on {subject!r}; it has {shown}{rest}; "
            "correct the subject, or add it to the stream"
        )

    def _takes(self, subject: str) -> bool:
        known = self._topology.known_subjects
        if known is not self._known:
            self._known = known
            self._taken.clear()
        if not known or subject in self._taken:
            return True
        if self._is_own(subject) or covered(known, subject):
            if len(self._taken) >= REMEMBERED:
                self._taken.clear()
            self._taken.add(subject)
            return True
        return False

    def _is_own(self, subject: str) -> bool:
        return self._may_add and subject.startswith(self._own)

    async def _read_again(self) -> bool:
        """Look at the stream once more; False when NATS does not answer."""
        try:
            await bounded(self._topology.subjects(), REREAD_LIMIT)
        except (BridgeError, NatsError, OSError, TimeoutError):
            return False
        return True

    async def open(self, subjects: Sequence[str]) -> set[str]:
        """Add those of `subjects` that are this service's to name; return what stays unknown.

        Raises when nobody can tell now: without NATS, and without the stream.
        """
        extra = [subject for subject in subjects if subject.startswith(self._own)]
        await self._topology.ensure(extra_subjects=extra)
        known = await self._topology.subjects()
        if not known:
            raise StreamMissingError(f"stream {self._stream} does not exist")
        return {subject for subject in subjects if not covered(known, subject)}
