"""Customers, the example: each change and its event are committed together.

A change takes the row's lock first and counts the version up, so the events of one customer
leave in the order of their versions. Replicas of another service's customers can only be read.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.events import EventsDep
from app.events.customers import CustomerGone, CustomerView
from app.models import Customer, now
from jetstream_bridge import Publisher
from jetstream_bridge.web import SessionDep, StrictRoute, WholeNumber, problem_responses

router = APIRouter(
    prefix="/customers",
    tags=["customers"],
    route_class=StrictRoute,
    responses=problem_responses(503),
)

_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"  # PostgreSQL cannot store NUL in a text
# Blanks are spelt out: what `\s` means depends on who reads the OpenAPI document.
_BLANK = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NAME = rf"^[^\x00-\x1f\x7f]*[^{_BLANK}][^\x00-\x1f\x7f]*$"
_EMAIL = rf"^[^@{_BLANK}]+@[^@{_BLANK}]+\.[^@{_BLANK}]+$"

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=_NAME),
]
# What can be mail at all; whether it arrives is only known by sending one.
Email = Annotated[str, StringConstraints(strip_whitespace=True, max_length=254, pattern=_EMAIL)]
CustomerId = Annotated[str, Path(max_length=255, pattern=_PRINTABLE)]


class NewCustomer(BaseModel):
    name: Name
    email: Email


class CustomerChange(BaseModel):
    """What is left out stays. With `version`, the change is refused if there is a newer one."""

    model_config = ConfigDict(strict=True)

    name: Name | None = None
    email: Email | None = None
    version: WholeNumber | None = None


class CustomerPage(BaseModel):
    items: list[CustomerView]
    next: str | None


@router.post("", status_code=201)
async def create_customer(
    new: NewCustomer, request: Request, session: SessionDep, events: EventsDep
) -> CustomerView:
    customer = Customer(name=new.name, email=new.email, origin=_own_name(request))
    session.add(customer)
    view = CustomerView.model_validate(customer)
    await _announce(events, "customer.created", view)
    return view


@router.get("")
async def list_customers(
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[str | None, Query(max_length=255, pattern=_PRINTABLE)] = None,
) -> CustomerPage:
    query = select(Customer).where(col(Customer.deleted_at).is_(None)).order_by(col(Customer.id))
    if after is not None:
        query = query.where(col(Customer.id) > after)
    found = list(await session.exec(query.limit(limit + 1)))  # one more tells if there are more
    items = [CustomerView.model_validate(customer) for customer in found[:limit]]
    return CustomerPage(items=items, next=items[-1].id if len(found) > limit else None)


@router.get("/{customer_id}", responses=problem_responses(404))
async def get_customer(customer_id: CustomerId, session: SessionDep) -> CustomerView:
    return CustomerView.model_validate(await _find(session, customer_id))


@router.patch("/{customer_id}", responses=problem_responses(404, 409))
async def change_customer(
    customer_id: CustomerId,
    change: CustomerChange,
    request: Request,
    session: SessionDep,
    events: EventsDep,
) -> CustomerView:
    customer = await _find_own(session, customer_id, own_name=_own_name(request))
    if change.version not in (None, customer.version):
        raise HTTPException(
            409,
            f"The customer has version {customer.version} and not {change.version}; "
            "read it again and repeat the change.",
        )
    fields = change.model_dump(include={"name", "email"}, exclude_none=True)
    if all(getattr(customer, name) == value for name, value in fields.items()):
        return CustomerView.model_validate(customer)  # nothing happened, so nothing is announced
    customer.sqlmodel_update(fields | {"version": customer.version + 1, "updated_at": now()})
    session.add(customer)
    view = CustomerView.model_validate(customer)
    await _announce(events, "customer.updated", view)
    return view


@router.delete("/{customer_id}", status_code=204, responses=problem_responses(404, 409))
async def delete_customer(
    customer_id: CustomerId, request: Request, session: SessionDep, events: EventsDep
) -> None:
    customer = await _find_own(session, customer_id, own_name=_own_name(request))
    await session.delete(customer)
    gone = CustomerGone(id=customer.id, version=customer.version + 1)
    await _announce(events, "customer.deleted", gone)


async def _announce(
    events: Publisher, event_type: str, payload: CustomerView | CustomerGone
) -> None:
    """Publish within the request's transaction; what cannot be announced is not done either."""
    result = await events.publish(event_type, payload)
    if not result.success:  # only without the outbox, which would have kept the event
        raise HTTPException(503, "The change cannot be announced now, so it was not made.")


async def _find(session: AsyncSession, customer_id: str, *, lock: bool = False) -> Customer:
    query = select(Customer).where(Customer.id == customer_id, col(Customer.deleted_at).is_(None))
    customer = (await session.exec(query.with_for_update() if lock else query)).first()
    if customer is None:
        raise HTTPException(404, f"There is no customer {customer_id!r}.")
    return customer


async def _find_own(session: AsyncSession, customer_id: str, *, own_name: str) -> Customer:
    customer = await _find(session, customer_id, lock=True)
    if customer.origin != own_name:
        raise HTTPException(
            409, f"The customer is a replica; change it in the service {customer.origin!r}."
        )
    return customer


def _own_name(request: Request) -> str:
    name: str = request.app.state.settings.app_name
    return name
