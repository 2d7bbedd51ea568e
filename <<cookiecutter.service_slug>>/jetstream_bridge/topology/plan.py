"""What has to change, computed from what is there: no requests, no side effects.

A plan only adds. What another stream owns is left to it and named; what differs and cannot or
must not be changed (retention, limits, replicas, storage, discard) is reported and left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.durations import humanize
from jetstream_bridge.core.subjects import covered
from jetstream_bridge.nats.management import Json

NANOSECONDS = 1_000_000_000

# What a consumer of ours never has; a durable that has it is updated.
_UNWANTED = (
    "backoff",
    "deliver_group",
    "deliver_subject",
    "filter_subjects",
    "flow_control",
    "headers_only",
    "idle_heartbeat",
    "inactive_threshold",
    "opt_start_seq",
    "opt_start_time",
    "rate_limit_bps",
)


@dataclass(frozen=True)
class Conflict:
    """A subject that another stream owns."""

    subject: str
    owner: str
    needed: bool  # by this service itself, whose readiness then fails

    def __str__(self) -> str:
        if self.needed:
            return (
                f"subject {self.subject}, which this service needs, is owned by stream "
                f"{self.owner}; remove it there, or set NATS_STREAM to that stream"
            )
        return f"subject {self.subject} is owned by stream {self.owner}; skipped"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `ensure` would do or did, and what stands in its way."""

    stream: str
    changes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()  # left alone
    conflicts: tuple[Conflict, ...] = ()
    create: bool = False
    add: tuple[str, ...] = field(default=(), repr=False)  # subjects

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do and nothing in the way."""
        return not self.changes and not self.conflicts

    @property
    def blocked(self) -> tuple[Conflict, ...]:
        """The conflicts over subjects that this service cannot do without."""
        return tuple(conflict for conflict in self.conflicts if conflict.needed)

    def lines(self) -> list[str]:
        """The plan for a person, one line for each thing."""
        lines = [f"+ {change}" for change in self.changes]
        lines += [f"! {conflict}" for conflict in self.conflicts]
        lines += [f"~ {difference}" for difference in self.differences]
        return lines or [f"stream {self.stream} is as this service needs it"]


def plan_stream(
    config: BridgeConfig,
    *,
    stream: Json | None,
    needed: Sequence[str],
    extra: Sequence[str],
    owners: Mapping[str, Sequence[str]],
) -> Plan:
    """Compare the stream as read (None: it does not exist) with the subjects it should have.

    `owners` names, for each subject, the streams that own it.
    """
    name = config.stream
    present: Sequence[str] = (stream.get("subjects") or []) if stream is not None else []
    conflicts: list[Conflict] = []
    add: list[str] = []
    for subject in dict.fromkeys([*needed, *extra]):
        foreign = [owner for owner in owners.get(subject, ()) if owner != name]
        conflicts += [Conflict(subject, owner, subject in needed) for owner in foreign]
        if not foreign and not covered(present, subject):
            add.append(subject)
    return Plan(
        stream=name,
        changes=_changes(config, stream, add),
        differences=() if stream is None else stream_differences(config, stream),
        conflicts=tuple(conflicts),
        create=stream is None and bool(add),
        add=tuple(add),
    )


def new_stream(config: BridgeConfig, subjects: Sequence[str]) -> Json:
    """The configuration of the stream that this service creates."""
    max_age = config.max_age or 0.0
    # The server refuses a window that outlasts the messages.
    window = min(config.duplicate_window, max_age) if max_age else config.duplicate_window
    # A full work queue that drops its oldest messages loses events that nobody has read.
    full_queue_refuses = config.retention == "workqueue" and config.max_bytes is not None
    return {
        "name": config.stream,
        "subjects": list(subjects),
        "retention": config.retention,
        "storage": "file",
        "discard": "new" if full_queue_refuses else "old",
        "num_replicas": config.stream_replicas,
        "duplicate_window": round(window * NANOSECONDS),
        "max_age": round(max_age * NANOSECONDS),
        "max_bytes": config.max_bytes if config.max_bytes is not None else -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
    }


def stream_differences(config: BridgeConfig, stream: Json) -> tuple[str, ...]:
    """How a stream that exists differs from the one that this service would create."""
    wanted = new_stream(config, ())
    differences = []
    for key in (
        *("retention", "storage", "discard", "num_replicas"),
        *("duplicate_window", "max_age", "max_bytes", "max_msgs", "max_msg_size"),
    ):
        actual = stream.get(key)
        if _same(actual, wanted[key]):
            continue
        note = f"{key} is {_shown(key, actual)} and not {_shown(key, wanted[key])}; left as it is"
        if key == "retention":
            note += " (retention cannot change)"
        differences.append(f"stream {config.stream}: {note}")
    return tuple(differences)


def new_consumer(*, durable: str, subject: str, ack_wait: float, max_ack_pending: int) -> Json:
    """The configuration of a durable consumer of this service.

    The application counts deliveries and computes delays, so the server's own limit is off and
    there is no `backoff`, which would replace `ack_wait` by its first entry.
    """
    return {
        "durable_name": durable,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": round(ack_wait * NANOSECONDS),
        "max_deliver": -1,
        "filter_subject": subject,
        "replay_policy": "instant",
        "max_ack_pending": max_ack_pending,
    }


def consumer_differences(wanted: Json, actual: Json) -> list[str]:
    """What an update would change, as `field old -> new`."""
    differences = [
        f"{key} {_shown(key, actual.get(key))} -> {_shown(key, value)}"
        for key, value in wanted.items()
        if not _same(actual.get(key), value)
    ]
    differences += [f"{key} removed" for key in _UNWANTED if actual.get(key)]
    return differences


def merged_consumer(wanted: Json, actual: Json) -> Json:
    """The whole configuration of an update: what was read, with our fields in it."""
    kept = {key: value for key, value in actual.items() if key not in _UNWANTED}
    return {**kept, **wanted}


def _changes(config: BridgeConfig, stream: Json | None, add: Sequence[str]) -> tuple[str, ...]:
    if not add:
        return ()
    if stream is None:
        kind = f"{config.retention}, file, {config.stream_replicas} replica(s)"
        return (f"create stream {config.stream} ({kind}) with subjects {', '.join(add)}",)
    return tuple(f"add subject {subject} to stream {config.stream}" for subject in add)


def _same(actual: object, wanted: object) -> bool:
    """Equal, where a limit that is absent, 0 or -1 means none."""
    unset = (None, 0, -1, "")
    return actual == wanted or (actual in unset and wanted in unset)


def _shown(key: str, value: object) -> str:
    if key in ("ack_wait", "duplicate_window", "max_age") and isinstance(value, int) and value > 0:
        return humanize(value / NANOSECONDS)
    return "unlimited" if value in (0, -1) else str(value)
