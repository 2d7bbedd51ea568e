"""The configuration of a stream: what the server fills in, refuses, and lets change.

A field that the mock does not act upon is refused as `NotSimulated`, unless it has the value that
means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jetstream_bridge.core.subjects import overlaps
from jetstream_bridge.testing.errors import ApiFault, NotSimulated, invalid_stream

Json = dict[str, Any]

NANOSECONDS = 1_000_000_000
_DUPLICATE_WINDOW = 120 * NANOSECONDS
_LEVEL = "5"  # of the API, as nats-server 2.15 counts

_DEFAULTS: Json = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 0,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}
_UNLIMITED = ("max_consumers", "max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size")
_ANY_VALUE = frozenset(
    {"name", "subjects", "description", "metadata", "retention", "max_age", "discard", "storage"}
    | {"duplicate_window", "discard_new_per_subject", "no_ack", *_UNLIMITED}
)
_MEANS_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})


def stream_config(request: Mapping[str, Any]) -> Json:
    """Return the whole configuration that the server makes of `request`."""
    _refuse_unknown(request)
    config = {**_DEFAULTS, **{k: v for k, v in request.items() if v is not None}}
    for name in _UNLIMITED:
        config[name] = config[name] if config[name] > 0 else -1
    config["subjects"] = list(config.get("subjects") or [config["name"]])
    config["num_replicas"] = config["num_replicas"] or 1
    config["compression"] = config["compression"] or "none"
    _check_subjects(config["subjects"])
    _check_window(config)
    if config["num_replicas"] > 1:
        raise ApiFault(500, 10074, "replicas > 1 not supported in non-clustered mode")
    return config


def with_level(config: Json, version: str) -> Json:
    """Add what the server notes about itself."""
    noted = {"_nats.level": _LEVEL, "_nats.req.level": "0", "_nats.ver": version}
    return {**config, "metadata": {**(config.get("metadata") or {}), **noted}}


def without_level(config: Mapping[str, Any]) -> Json:
    """Drop the server's notes, to compare two configurations."""
    kept = {k: v for k, v in (config.get("metadata") or {}).items() if not k.startswith("_nats.")}
    plain = {k: v for k, v in config.items() if k != "metadata"}
    return {**plain, "metadata": kept} if kept else plain


def check_update(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise what the server answers to an update that it refuses."""
    retention = {old["retention"], new["retention"]}
    if len(retention) > 1 and "workqueue" in retention:
        what = "can not change retention policy to/from workqueue"
    elif old["storage"] != new["storage"]:
        what = "can not change storage type"
    elif old["deny_delete"] and not new["deny_delete"]:
        what = "can not cancel deny message deletes"
    elif old["deny_purge"] and not new["deny_purge"]:
        what = "can not cancel deny purge"
    else:
        return
    raise invalid_stream(f"stream configuration update {what}")


def _refuse_unknown(request: Mapping[str, Any]) -> None:
    for name, value in request.items():
        if name in _ANY_VALUE or value in _MEANS_NOTHING or value == _DEFAULTS.get(name):
            continue
        if name == "num_replicas":
            continue
        if name in ("allow_direct", "deny_delete", "deny_purge"):
            continue
        if name == "consumer_limits" and set(value) <= {"max_ack_pending"}:
            continue
        raise NotSimulated(f"a stream with {name}={value!r}")
    if request.get("retention") == "interest":
        raise NotSimulated("a stream with retention='interest'")


def _check_subjects(subjects: list[str]) -> None:
    for index, subject in enumerate(subjects):
        if subject == ">" or overlaps(subject, "$JS.>"):
            text = "subjects that overlap with jetstream api require no-ack to be true"
            raise invalid_stream(text)
        for earlier in subjects[:index]:
            if earlier == subject:
                raise invalid_stream("duplicate subjects detected")
            if overlaps(earlier, subject):
                raise invalid_stream(f'subject "{earlier}" overlaps with "{subject}"')


def _check_window(config: Json) -> None:
    age, window = config["max_age"], config["duplicate_window"]
    if not window:
        config["duplicate_window"] = min(age, _DUPLICATE_WINDOW) if age else _DUPLICATE_WINDOW
    elif age and window > age:
        raise invalid_stream("duplicates window can not be larger then max age")
