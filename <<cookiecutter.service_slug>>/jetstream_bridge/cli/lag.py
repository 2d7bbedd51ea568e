"""`lag`: how far behind the consumers are, and whether a worker pulls from them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer
from jetstream_bridge.cli.relative_times import age
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import Column, Row, clauses, table
from jetstream_bridge.core.errors import ApiError, PermissionDeniedError
from jetstream_bridge.operations.inspection import ConsumerState, TopologyState
from jetstream_bridge.web.admin.topology import ConsumerView

commands = single()

_COLUMNS = (
    Column("CONSUMER", shrinks=True, keeps_end=True),
    Column("OURS"),
    Column("LAG", numeric=True),
    Column("PENDING ACKS", numeric=True),
    Column("REDELIVERED", numeric=True),
    Column("WAITING PULLS", numeric=True),
    Column("OLDEST", numeric=True),
)
_NOBODY = "no waiting pulls; is the worker running?"


@dataclass(frozen=True, slots=True)
class _Lag:
    consumer: ConsumerState
    oldest: datetime | None

    def as_data(self) -> dict[str, Any]:
        view = ConsumerView.model_validate(self.consumer).model_dump(mode="json")
        return view | {"oldest_at": self.oldest.isoformat() if self.oldest else None}

    def as_row(self) -> Row:
        state = self.consumer
        return Row(
            (
                state.name,
                "yes" if state.own else "no",
                str(state.lag),
                str(state.num_ack_pending),
                str(state.num_redelivered),
                str(state.num_waiting),
                age(self.oldest),
            ),
            remark=_NOBODY if state.own and state.lag and not state.num_waiting else None,
        )


@commands.command(epilog="Example: python -m app.cli lag")
def command(as_json: AsJson = False) -> None:
    """Show every consumer of the stream and how many events wait for it.

    LAG: not delivered yet, or pending acks; PENDING ACKS: delivered, being handled or waiting for
    their next try; WAITING PULLS: a worker's open requests; OLDEST: the oldest event's age.
    """

    async def work(service: Service) -> Status:
        await service.connect()
        state = await service.operations.topology()
        lags = await asyncio.gather(*(_lag(service, consumer) for consumer in state.consumers))
        data = {
            "consumers": [lag.as_data() for lag in lags],
            "missing": state.missing,
            "unread": [asdict(unread) for unread in state.unread],
            "unknown": state.unknown,
        }
        answer(_text(lags, state), data, as_json=as_json)
        return Status.FINE

    run(work)


async def _lag(service: Service, consumer: ConsumerState) -> _Lag:
    try:
        return _Lag(consumer, await service.bridge.inspection.oldest(consumer))
    except (PermissionDeniedError, ApiError):  # reading messages takes a right of its own
        return _Lag(consumer, None)


def _text(lags: list[_Lag], state: TopologyState) -> str:
    lines = [table(_COLUMNS, [lag.as_row() for lag in lags]) if lags else "no consumers"]
    for name in state.missing:
        lines.append(f"consumer {name} does not exist; make it: python -m app.cli topology ensure")
    for unread in state.unread:
        lines += clauses(str(unread), first="", rest="  ")
    for unknown in state.unknown:
        lines += clauses(f"not known: {unknown}", first="", rest="  ")
    return "\n".join(lines)
