"""The configuration of a pull consumer: what the server fills in, refuses, and lets change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jetstream_bridge.core.subjects import overlaps
from jetstream_bridge.testing.errors import ApiFault, NotSimulated, invalid_consumer
from jetstream_bridge.testing.stream_config import NANOSECONDS, Json

_ACK_WAIT = 30 * NANOSECONDS
_MAX_ACK_PENDING = 1000
_MAX_WAITING = 512

_ANY_VALUE = frozenset(
    {"name", "durable_name", "description", "deliver_policy", "ack_policy", "ack_wait"}
    | {"max_deliver", "filter_subject", "max_waiting", "max_ack_pending", "metadata"}
    | {"replay_policy", "num_replicas", "mem_storage", "max_batch", "max_expires", "max_bytes"}
)
_FIXED = {
    "deliver_policy": "deliver policy",
    "ack_policy": "ack policy",
    "replay_policy": "replay policy",
    "max_waiting": "max waiting",
}


def consumer_config(
    request: Mapping[str, Any], name: str, limits: Mapping[str, Any] | None = None
) -> Json:
    """Return the whole configuration that the server makes of `request`.

    `limits` are those that the stream sets its consumers.
    """
    most = (limits or {}).get("max_ack_pending") or _MAX_ACK_PENDING
    for field, value in request.items():
        if field not in _ANY_VALUE and value not in (None, False, 0, "", [], {}):
            raise NotSimulated(f"a consumer with {field}={value!r}")
    given = {k: v for k, v in request.items() if v not in (None, "", {}, [])}
    if given.get("deliver_policy", "all") not in ("all", "new", "last"):
        raise NotSimulated(f"a consumer with deliver_policy={given['deliver_policy']!r}")
    config: Json = {
        "durable_name": name,
        "name": name,
        "deliver_policy": "all",
        "ack_policy": "none",
        "max_deliver": -1,
        "replay_policy": "instant",
        "max_waiting": _MAX_WAITING,
        "num_replicas": 0,
        **given,
    }
    if config["ack_policy"] == "explicit":
        config["ack_wait"] = config.get("ack_wait") or _ACK_WAIT
        config["max_ack_pending"] = config.get("max_ack_pending") or most
    config["max_deliver"] = config["max_deliver"] or -1
    config["max_waiting"] = config["max_waiting"] or _MAX_WAITING
    return config


def check_explicit(config: Mapping[str, Any]) -> None:
    """Refuse what the mock does not do after it was checked as the server would."""
    if config["ack_policy"] != "explicit":
        raise NotSimulated(f"a consumer with ack_policy={config['ack_policy']!r}")
    if config["replay_policy"] != "instant":
        raise NotSimulated(f"a consumer with replay_policy={config['replay_policy']!r}")


def check_limit(config: Json, limits: Mapping[str, Any]) -> None:
    """Refuse more messages out at once than the stream lets its consumers have."""
    most = limits.get("max_ack_pending") or 0
    if 0 < most < config.get("max_ack_pending", 0):
        text = f"consumer max ack pending exceeds system limit of {most}"
        raise ApiFault(400, 10121, text)


def check_update(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise what the server answers to an update that it refuses."""
    for field, name in _FIXED.items():
        if old[field] != new[field]:
            raise invalid_consumer(f"{name} can not be updated")


def check_work_queue(config: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> None:
    """On a work queue every message has one reader, who acknowledges it."""
    if config["ack_policy"] != "explicit":
        text = "consumer in pull mode requires explicit ack policy on workqueue stream"
        raise ApiFault(400, 10084, text)
    mine = config.get("filter_subject")
    for other in others:
        theirs = other.get("filter_subject")
        if not mine:
            text = "multiple non-filtered consumers not allowed on workqueue stream"
            raise ApiFault(400, 10099, text)
        if not theirs or overlaps(mine, theirs):
            raise ApiFault(400, 10100, "filtered consumer not unique on workqueue stream")
    if config["deliver_policy"] != "all":
        raise ApiFault(400, 10101, "consumer must be deliver all on workqueue stream")
