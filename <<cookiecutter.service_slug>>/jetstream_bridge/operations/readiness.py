"""What readiness depends on, seen from inside: asks nobody, so it answers whatever hangs.

A process that does its work without NATS stays ready while NATS is away: one whose events wait
in the outbox. Its failing checks are shown, and `degraded`. What a person has to mend, a subject
that another stream owns or a right that is missing, keeps every process from being ready.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jetstream_bridge.core.clock import loop_time

if TYPE_CHECKING:
    from jetstream_bridge.inbox.exclusive_worker import ExclusiveWorker
    from jetstream_bridge.nats.connection import Connection
    from jetstream_bridge.outbox.relay import Relay
    from jetstream_bridge.topology.provisioning import Topology

# A round of the relay takes seconds: it sends for 5 s and waits for answers for 5 s at most.
STALLED_AFTER = 20.0  # seconds

Status = Literal["ready", "degraded", "not_ready"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a readiness report."""

    ok: bool
    detail: str | None = None
    needed: bool = True  # False: the process serves all the same while this fails


@dataclass(frozen=True, slots=True)
class Probe:
    """A check that asks somebody, which takes time. `needed` is meant when no answer comes."""

    ask: Callable[[], Awaitable[Check]]
    needed: bool = True


# Those of the package; a service's own have other names.
CHECK_NAMES = frozenset({"database", "migrations", "nats", "stream", "tasks", "relay", "consumers"})


def status_of(checks: Iterable[Check]) -> Status:
    """What the checks of one process come to."""
    failing = [check for check in checks if not check.ok]
    if any(check.needed for check in failing):
        return "not_ready"
    return "degraded" if failing else "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """The checks of one bridge. `needs_nats`: whether it is any use while NATS is away."""

    connection: Connection
    topology: Topology
    rights: Sequence[str]  # the subjects that this process has to be permitted
    relay: Relay | None
    workers: Mapping[str, ExclusiveWorker]
    failures: Callable[[], list[str]]
    needs_nats: bool

    def __call__(self) -> dict[str, Check]:
        checks = {
            "nats": self._nats(),
            "stream": self._stream(),
            "tasks": _check("; ".join(self.failures()) or None),
        }
        if self.relay is not None:
            checks["relay"] = self._relay(self.relay)
        if self.workers:
            problems = [f"{n}: {w.problem}" for n, w in self.workers.items() if w.problem]
            checks["consumers"] = _check("; ".join(problems) or None)
        return checks

    def _nats(self) -> Check:
        if not self.connection.connected:
            return _check(self.connection.error or "connecting", needed=self.needs_nats)
        refused = {self.connection.denial(subject): None for subject in self.rights}
        return _check("; ".join(text for text in refused if text is not None) or None)

    def _stream(self) -> Check:
        if not self.connection.connected:
            return _check("not connected to NATS", needed=self.needs_nats)
        # Not looked at: JetStream has not answered yet, which is an outage of NATS too.
        return _check(self.topology.problem, needed=self.needs_nats or self.topology.was_seen)

    def _relay(self, relay: Relay) -> Check:
        """A paused relay does what it is told; a held-up one keeps no request from its answer."""
        silent = loop_time() - relay.looked_at
        if silent > STALLED_AFTER:
            return _check(f"no round was finished for {silent:.0f} s", needed=self.needs_nats)
        if relay.problem is None and relay.paused_since is not None:
            since = relay.paused_since.strftime("%Y-%m-%dT%H:%M:%SZ")
            return Check(ok=True, detail=f"paused since {since}; POST /admin/outbox/resume")
        return _check(relay.problem, needed=self.needs_nats)


def _check(problem: str | None, *, needed: bool = True) -> Check:
    return Check(ok=problem is None, detail=problem, needed=needed)
