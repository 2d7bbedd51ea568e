"""FastAPI and SQLModel with one table and one route: what a start costs in any case."""

from __future__ import annotations

from fastapi import FastAPI
from sqlmodel import Field, SQLModel


class Item(SQLModel, table=True):
    id: int = Field(primary_key=True)
    name: str


app = FastAPI()


@app.get("/items")
async def items() -> list[Item]:
    return []
