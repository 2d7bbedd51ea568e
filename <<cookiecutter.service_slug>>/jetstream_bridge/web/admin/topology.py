"""The stream, who owns which subject, and how far behind the consumers are."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from jetstream_bridge.web.admin.access import AdminRoute, OperationsDep

router = APIRouter(prefix="/topology", tags=["admin: topology"], route_class=AdminRoute)


class StreamView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    exists: bool
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    retention: str | None
    replicas: int | None


class ConsumerView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    own: bool = Field(description="Whether this service reads through it")
    filter_subject: str | None
    num_pending: int = Field(description="Events not delivered yet")
    num_ack_pending: int = Field(description="Events delivered and not acknowledged")
    num_redelivered: int
    num_waiting: int = Field(description="Waiting pulls; 0 for long means that no worker runs")


class UnreadView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    subject: str
    waiting: int = Field(description="Events on it, which no consumer reads")
    remedy: str


class TopologyView(BaseModel):
    """Null is what this service's NATS user may not ask; `unknown` says why."""

    stream: StreamView | None
    subjects: list[str] | None
    owners: dict[str, list[str]] | None = Field(
        description="The streams that own each subject this service needs"
    )
    consumers: list[ConsumerView]
    missing: list[str] = Field(description="Consumers of this service that do not exist")
    plan: list[str] | None = Field(description="What differs from what this service needs")
    unread: list[UnreadView] = Field(
        description="Subjects from and to this service on which events wait and nobody reads"
    )
    unknown: list[str]


@router.get("", summary="Stream, subjects, owners and consumers with their lag")
async def topology(operations: OperationsDep) -> TopologyView:
    state = await operations.topology()
    return TopologyView(
        stream=StreamView.model_validate(state.stream) if state.stream is not None else None,
        subjects=state.stream.subjects if state.stream is not None else None,
        owners=state.owners,
        consumers=[ConsumerView.model_validate(consumer) for consumer in state.consumers],
        missing=state.missing,
        plan=state.plan,
        unread=[UnreadView.model_validate(unread) for unread in state.unread],
        unknown=state.unknown,
    )
