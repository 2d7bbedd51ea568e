"""Durables that another program made, and the messages that its limit of deliveries left behind.

The gem lets the server count deliveries (`max_deliver`). What the server counted out is delivered
no more: it is neither pending nor out, stays in the work queue, and an update of the limit does not
bring it back. The stream and the consumer together tell how many there are. A new durable of the
same name gets them, and all that is not acknowledged, with counts that begin at 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import StreamMissingError, TopologyError
from jetstream_bridge.nats.management import Json, StreamApi
from jetstream_bridge.topology.durable_names import DurableSpec

_READS = 10  # until two that nobody disturbed agree
_BETWEEN = 0.2  # seconds; a cluster removes what is acknowledged a moment later
COMMAND = "python -m app.cli topology takeover"


@dataclass(frozen=True, slots=True)
class Takeover:
    """A durable that is there, and what a new one of its name would bring back."""

    spec: DurableSpec
    limit: int  # of deliveries by the server's count; this service sets none
    out: int  # delivered and not acknowledged
    left_behind: int  # not acknowledged, and never delivered again

    @property
    def needed(self) -> bool:
        """Whether it matters: messages are lost, or would come with another program's count."""
        return self.left_behind > 0 or (self.limit > 0 and self.out > 0)

    def __str__(self) -> str:
        return (
            f"consumer {self.spec.name} anew: {_messages(self.left_behind)} left behind, "
            f"{_messages(self.out)} delivered and not acknowledged"
        )


async def check_foreign(api: StreamApi, stream: str, durable: Json) -> None:
    """Raise `TopologyError` if a durable is another program's and not to be used as it is.

    Only one with a limit of deliveries can be. Where messages are kept after they are
    acknowledged, nothing tells which were left behind.
    """
    config = durable["config"]
    if config.get("max_deliver", -1) <= 0 or not await _is_work_queue(api, stream):
        return
    name, gems = durable["name"], bool(config.get("backoff"))
    left_behind = None
    if not (gems and durable["num_waiting"]):
        left_behind = await _left_behind(api, stream, name, config.get("filter_subject"))
    if left_behind is None and gems:
        raise _in_use(name)
    out = durable["num_ack_pending"] if gems else 0  # it may be amid a batch, and ask for nothing
    if left_behind or out:
        raise TopologyError(
            f"consumer {name} is another program's, whose limit of {config['max_deliver']} "
            f"deliveries left {_messages(left_behind or 0)} behind that would never come again, "
            f"and {_messages(out)} in its hands; stop that program, then run: {COMMAND}"
        )


async def find_takeovers(
    api: StreamApi, config: BridgeConfig, durables: Sequence[DurableSpec]
) -> list[Takeover]:
    """Look at the durables that are there; raise `TopologyError` while somebody works on one."""
    if not await _is_work_queue(api, config.stream):
        raise TopologyError(
            f"stream {config.stream} is no work queue: it keeps what is acknowledged, and a new "
            "consumer would be given all of it again; if that is wanted, delete the consumer"
        )
    found = []
    for spec in durables:
        info = await api.consumer(config.stream, spec.name)
        if info is not None:
            found.append(await _takeover(api, config.stream, spec, info))
    return found


async def _takeover(api: StreamApi, stream: str, spec: DurableSpec, info: Json) -> Takeover:
    left_behind = None
    if not info["num_waiting"]:
        left_behind = await _left_behind(api, stream, spec.name, info["config"]["filter_subject"])
    if left_behind is None:
        raise _in_use(spec.name)
    limit = int(info["config"].get("max_deliver", -1))
    return Takeover(spec, limit, int(info["num_ack_pending"]), left_behind)


async def _left_behind(
    api: StreamApi, stream: str, durable: str, subject: str | None
) -> int | None:
    """How many messages nobody will be given; None while the consumer does not stand still."""
    last = None
    for _ in range(_READS):
        before = _position(await api.consumer(stream, durable))
        held = await _held(api, stream, subject)
        if before == _position(await api.consumer(stream, durable)):
            missing = held - before[0] - before[1]
            if missing <= 0 or missing == last:
                return max(0, missing)
            last = missing
        await asyncio.sleep(_BETWEEN)
    return None


async def _held(api: StreamApi, stream: str, subject: str | None) -> int:
    info = await api.stream_info(stream, count=subject or ">")
    if info is None:
        raise StreamMissingError(f"stream {stream} does not exist")
    return sum((info["state"].get("subjects") or {}).values())


def _position(info: Json | None) -> tuple[int, int, int]:
    """Pending, out, and deliveries so far."""
    if info is None:
        return (0, 0, -1)
    return (info["num_pending"], info["num_ack_pending"], info["delivered"]["consumer_seq"])


async def _is_work_queue(api: StreamApi, stream: str) -> bool:
    config = await api.stream(stream)
    if config is None:
        raise StreamMissingError(f"stream {stream} does not exist; run `topology ensure`")
    return config.get("retention") == "workqueue"


def _in_use(durable: str) -> TopologyError:
    return TopologyError(
        f"consumer {durable} is in use by another program: messages are asked for or handled; "
        "stop it first (what a gem asked for ends 5 s after it)"
    )


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
