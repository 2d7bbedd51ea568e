"""Settings that work but are likely not meant: each warning shows its arithmetic and the remedy."""

from __future__ import annotations

import math

from jetstream_bridge.core.durations import humanize
from jetstream_bridge.outbox.rounds import PUBLISH_BUDGET
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import misread_values

_SHORT_TOKEN = 16  # characters; a shorter one can be guessed over the network


def configuration_warnings(settings: BridgeSettings) -> list[str]:
    """What works but is likely not meant, each with its arithmetic; one line each."""
    checks = (
        _warn_of_duplicates_in_the_stream(settings),
        _warn_of_forgetting_too_early(settings),
        _warn_of_a_tight_ack_wait(settings),
        _warn_of_unused_backoff(settings),
        _warn_of_an_endless_stream(settings),
        _warn_of_undetected_gem_duplicates(settings),
        _warn_of_a_short_admin_token(settings),
    )
    return [
        *(warning for warning in checks if warning is not None),
        *misread_values(type(settings)),
    ]


def _warn_of_duplicates_in_the_stream(settings: BridgeSettings) -> str | None:
    # After half a window a relay looks into the stream before it sends again what may be there. A
    # claim that began just before that still sends, and its last message may take its time.
    deadline = bridge_config(settings).publish_timeout
    least = 2 * (PUBLISH_BUDGET + deadline)
    if settings.nats_duplicate_window >= least:
        return None
    return (
        f"NATS_DUPLICATE_WINDOW is {humanize(settings.nats_duplicate_window)}, but its half has to "
        f"outlast the sending of one claim ({humanize(PUBLISH_BUDGET)}) and the deadline of its "
        f"last event ({humanize(deadline)}): the stream can hold an event twice; raise it to "
        f"{humanize(least)} or more"
    )


def _warn_of_forgetting_too_early(settings: BridgeSettings) -> str | None:
    pauses = [
        settings.backoff[min(number, len(settings.backoff) - 1)]
        for number in range(settings.max_deliver)
    ]
    lifetime = settings.max_deliver * settings.ack_wait + sum(pauses)
    if not settings.use_inbox or settings.inbox_retention >= lifetime:
        return None
    return (
        f"INBOX_RETENTION is {humanize(settings.inbox_retention)}, but an event can be delivered "
        f"for {humanize(lifetime)} (MAX_DELIVER {settings.max_deliver} x ACK_WAIT "
        f"{humanize(settings.ack_wait)} + BACKOFF {humanize(sum(pauses))}): a late duplicate "
        f"would be handled again; raise it to {humanize(math.ceil(lifetime))} or more"
    )


def _warn_of_a_tight_ack_wait(settings: BridgeSettings) -> str | None:
    heartbeat = settings.ack_wait / 3
    if heartbeat >= 1:
        return None
    return (
        f"ACK_WAIT is {humanize(settings.ack_wait)}: a running handler reports every "
        f"{humanize(round(heartbeat, 3))} (a third), and a pause of the process as long as "
        f"ACK_WAIT lets the event run twice; use 3s or more"
    )


def _warn_of_unused_backoff(settings: BridgeSettings) -> str | None:
    if len(settings.backoff) <= settings.max_deliver:
        return None
    return (
        f"BACKOFF has {len(settings.backoff)} entries, but MAX_DELIVER is "
        f"{settings.max_deliver}: the last {len(settings.backoff) - settings.max_deliver} are "
        f"never used; raise MAX_DELIVER or shorten BACKOFF"
    )


def _warn_of_an_endless_stream(settings: BridgeSettings) -> str | None:
    if settings.nats_retention != "limits" or settings.nats_max_age or settings.nats_max_bytes:
        return None
    return (
        "NATS_RETENTION is limits and neither NATS_MAX_AGE nor NATS_MAX_BYTES is set: a stream "
        "that this service creates grows without end; set NATS_MAX_AGE, for instance to 7d"
    )


def _warn_of_undetected_gem_duplicates(settings: BridgeSettings) -> str | None:
    if not settings.gem_peer or settings.use_inbox:
        return None
    return (
        "GEM_PEER is true and USE_INBOX is false: the server does not recognise duplicates of "
        "such a peer, and neither does this service; set USE_INBOX=true"
    )


def _warn_of_a_short_admin_token(settings: BridgeSettings) -> str | None:
    length = len(settings.admin_token.get_secret_value()) if settings.admin_token else _SHORT_TOKEN
    if length >= _SHORT_TOKEN:
        return None
    return (
        f"ADMIN_TOKEN has {length} characters and can be guessed; use {_SHORT_TOKEN} or more, "
        f"for instance the output of: openssl rand -hex 24"
    )
