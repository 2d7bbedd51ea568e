"""What makes a stream that exists useless or dangerous for this service, each with the remedy.

A stream may have been made by hand, or by another program, with rules that throw events away
before anybody has read them, or that keep them from whom they are for. Nobody would notice: every
publish is acknowledged. So such a stream is a fault, and the service is not ready.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jetstream_bridge.core.durations import humanize
from jetstream_bridge.core.subjects import overlaps
from jetstream_bridge.nats.management import Json

_NANOSECONDS = 1_000_000_000

Rule = Callable[[Json, Sequence[str]], str | None]


def stream_fault(name: str, stream: Json, needed: Sequence[str]) -> str | None:
    """Return what is wrong with the stream as configured; `needed` are this service's subjects."""
    found = [fault for rule in _RULES if (fault := rule(stream, needed)) is not None]
    return "; ".join(f"stream {name} {fault}" for fault in found) or None


def _takes_no_messages(stream: Json, needed: Sequence[str]) -> str | None:
    if stream.get("no_ack"):
        return "has no_ack set, so that no publish is confirmed; unset it"
    if stream.get("sealed"):
        return "is sealed and takes no messages; use another NATS_STREAM"
    if stream.get("mirror"):
        return "is a mirror and takes no messages; use another NATS_STREAM"
    if stream.get("allow_msg_counter"):
        return "keeps counters (allow_msg_counter) and no events; use another NATS_STREAM"
    return None


def _keeps_for_those_present(stream: Json, needed: Sequence[str]) -> str | None:
    if stream.get("retention") != "interest":
        return None
    return (
        "has retention interest, which throws away what is published while its consumer is not "
        "there yet, and all dead letters; use another NATS_STREAM, or make it anew as workqueue "
        "or limits"
    )


def _keeps_the_newest_of_a_subject(stream: Json, needed: Sequence[str]) -> str | None:
    most = stream.get("max_msgs_per_subject") or 0
    refuses = stream.get("discard") == "new" and stream.get("discard_new_per_subject")
    if most <= 0 or refuses:
        return None
    return (
        f"keeps the newest {most} messages of a subject and throws away older events that nobody "
        "has read; set max_msgs_per_subject to -1"
    )


def _full_work_queue_forgets(stream: Json, needed: Sequence[str]) -> str | None:
    limits = [name for name in ("max_msgs", "max_bytes") if (stream.get(name) or 0) > 0]
    if not limits or stream.get("retention") != "workqueue" or stream.get("discard") == "new":
        return None
    return (
        f"is a work queue with {' and '.join(limits)} that discards its oldest messages when it is "
        "full, which nobody has read; set discard to new, and the outbox waits for room"
    )


def _renames(stream: Json, needed: Sequence[str]) -> str | None:
    transform = stream.get("subject_transform") or {}
    if not transform.get("dest"):
        return None
    source = transform.get("src") or ">"
    renamed = [subject for subject in needed if overlaps(source, subject)]
    if not renamed:
        return None
    return (
        f"stores {', '.join(renamed)} under other subjects (subject_transform {source} to "
        f"{transform['dest']}), where no consumer looks; remove the subject_transform"
    )


def _deletes_durables(stream: Json, needed: Sequence[str]) -> str | None:
    threshold = (stream.get("consumer_limits") or {}).get("inactive_threshold") or 0
    if threshold <= 0:
        return None
    return (
        f"deletes consumers that nobody reads for {humanize(threshold / _NANOSECONDS)}, and with "
        "them what was read; unset inactive_threshold in its consumer_limits"
    )


_RULES: tuple[Rule, ...] = (
    _takes_no_messages,
    _keeps_for_those_present,
    _keeps_the_newest_of_a_subject,
    _full_work_queue_forgets,
    _renames,
    _deletes_durables,
)
