"""Customers as other services see them; so do the clients of the API."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.events import publishes


@publishes("customer.created", "customer.updated")
class CustomerView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    email: str
    version: int
    origin: str
    updated_at: datetime


@publishes("customer.deleted")
class CustomerGone(BaseModel):
    id: str
    version: int
