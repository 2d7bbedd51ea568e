"""`lag`: how far behind the consumers are, and whether anybody is asking."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.bridge.errors import ApiError, PermissionDeniedError
from app.bridge.inspection import ConsumerState, TopologyState
from app.commands.groups import single
from app.commands.moments import age
from app.commands.output import AsJson, Status, answer
from app.commands.service import Service, run
from app.commands.table import Column, Row, clauses, table
from app.routers.admin.topology import ConsumerView

commands = single()

_COLUMNS = (
    Column("CONSUMER", shrinks=True, keeps_end=True),
    Column("OURS"),
    Column("PENDING", numeric=True),
    Column("UNACKED", numeric=True),
    Column("REDELIVERED", numeric=True),
    Column("PULLS", numeric=True),
    Column("OLDEST", numeric=True),
)
_NOBODY = "nobody asks for events; is the worker running?"


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
                str(state.num_pending),
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

    PENDING: not delivered yet; UNACKED: delivered, being handled or waiting for their next try;
    PULLS: requests for events, 0 when nobody asks; OLDEST: how long the oldest has waited.
    """

    async def work(service: Service) -> Status:
        await service.connect()
        state = await service.operations.topology()
        lags = await asyncio.gather(*(_lag(service, consumer) for consumer in state.consumers))
        data = {
            "consumers": [lag.as_data() for lag in lags],
            "missing": state.missing,
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
    for unknown in state.unknown:
        lines += clauses(f"not known: {unknown}", first="", rest="  ")
    return "\n".join(lines)
