"""Column types and defaults that mean the same on PostgreSQL and on SQLite.

JSON is stored as the very text that travels: PostgreSQL's `json` (not `jsonb`, which reorders
keys) and SQLite's text both keep it byte for byte, and both can be queried.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Integer, LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator
from sqlmodel.sql.sqltypes import UTCDateTime

# SQLite numbers rows by itself only for a column declared INTEGER.
RowId = BigInteger().with_variant(Integer(), "sqlite")

JSONValue = dict[str, Any] | list[Any] | str | int | float | bool | None


def compact(value: JSONValue) -> str:
    """Return `value` as the JSON text of the wire: no blanks, non-ASCII text as it is.

    Raises `ValueError` for NaN and infinities, which JSON does not know.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def storable(text: str) -> str:
    """Return `text` as every database, header and log takes it.

    PostgreSQL refuses NUL in a text, and nothing encodes half of a surrogate pair; an error's text
    may quote both. They are written as escapes.
    """
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


class LenientText(TypeDecorator[str]):
    """Text that SQLite hands over as bytes: what is no UTF-8 in it becomes `errors`."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, errors: str) -> None:
        super().__init__()
        self.errors = errors

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[bytes | None], str | None]:
        def decode(value: bytes | None) -> str | None:
            return None if value is None else bytes(value).decode(errors=self.errors)

        return decode


class JSONDocument(TypeDecorator[JSONValue]):
    """A JSON column. Binds JSON text (`str`) as it is and anything else as compact JSON.

    A JSON string value itself can therefore not be stored; the bridge stores objects only.
    """

    impl = JSON
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[JSONValue], str | None]:
        def to_text(value: JSONValue) -> str | None:
            return value if value is None or isinstance(value, str) else compact(value)

        return to_text

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[JSONValue], JSONValue]:
        # asyncpg's codec has parsed the value already; SQLite hands over the text.
        def from_text(value: JSONValue) -> JSONValue:
            return json.loads(value) if isinstance(value, str) else value

        return from_text


class utc_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, with milliseconds on SQLite too (CURRENT_TIMESTAMP has none)."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(utc_now)
def _now(element: utc_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "now()"


@compiles(utc_now, "sqlite")
def _sqlite_now(element: utc_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"
