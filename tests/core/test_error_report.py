"""What people are told of an error: class, words, and the line of the service's own code."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from jetstream_bridge.core.error_report import MAX_REPORT, message, raised_at, report, traceback_of
from jetstream_bridge.core.errors import PayloadError, Unrecoverable


def _raised(function: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any error at all
        function()
    return caught.value


def _line_of(function: Callable[..., object], code: str) -> str:
    lines, first = inspect.getsourcelines(function)
    number = next(number for number, line in enumerate(lines) if code in line)
    return f"tests/core/test_error_report.py:{first + number}"


def _lookup() -> None:
    table: dict[str, str] = {}
    table["Bug"]


def _in_a_library() -> None:
    json.loads("{")


def test_an_error_is_told_with_class_words_and_the_line_of_own_code() -> None:
    place = _line_of(_lookup, 'table["Bug"]')
    assert report(_raised(_lookup)) == f"KeyError: 'Bug' ({place} in _lookup)"


def test_the_line_is_that_of_own_code_where_a_library_raised() -> None:
    place = _line_of(_in_a_library, "json.loads")
    assert raised_at(_raised(_in_a_library)) == f"{place} in _in_a_library"


def test_an_error_without_words_is_its_class() -> None:
    assert report(ValueError()) == "ValueError"
    assert message(ValueError("")) == "ValueError"


def test_what_it_was_raised_from_is_told_too() -> None:
    def wrap() -> None:
        try:
            _lookup()
        except KeyError as error:
            raise Unrecoverable("no such order") from error

    told = report(_raised(wrap))
    assert told.startswith("Unrecoverable: no such order (tests/core/test_error_report.py:")
    assert "; caused by KeyError: 'Bug' (tests/core/test_error_report.py:" in told


def test_a_long_message_hides_neither_its_place_nor_its_cause() -> None:
    def wrap() -> None:
        try:
            _lookup()
        except KeyError as error:
            raise RuntimeError("x" * 10_000) from error

    told = report(_raised(wrap))
    assert "... (tests/core/test_error_report.py:" in told
    assert "caused by KeyError: 'Bug'" in told
    assert len(told) < MAX_REPORT + 100


def test_of_a_group_the_first_error_tells_the_place() -> None:
    def fail() -> None:
        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(_lookup))

        asyncio.run(together())

    error = _raised(fail)
    assert "first KeyError: 'Bug'" in report(error)
    assert raised_at(error).endswith("in _lookup")


def test_a_time_limit_tells_where_it_ran_out() -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    async def limited() -> None:
        async with asyncio.timeout(0):
            await slow()

    async def run() -> None:
        try:
            await limited()
        except TimeoutError as error:
            raise TimeoutError("the handler took too long").with_traceback(None) from error

    error = _raised(lambda: asyncio.run(run()))
    error.__traceback__ = None  # raised around the handler, not in it
    assert raised_at(error).endswith(("in limited", "in slow"))


def test_the_database_is_quoted_without_its_statement() -> None:
    def insert() -> None:
        with create_engine("sqlite://").connect() as connection:
            connection.execute(text("CREATE TABLE t (a INTEGER UNIQUE)"))
            for _ in range(2):
                connection.execute(text("INSERT INTO t VALUES (1)"))

    error = _raised(insert)
    assert isinstance(error, IntegrityError)
    assert report(error).startswith("IntegrityError: UNIQUE constraint failed: t.a (tests/")
    assert "INSERT" not in report(error)


def test_errors_of_no_own_code_have_no_traceback_and_quote_no_payload() -> None:
    class Payload(BaseModel):
        number: int

    error = PayloadError("the payload does not fit")
    error.__cause__ = _raised(lambda: Payload.model_validate({"number": "private"}))
    assert report(error) == "PayloadError: the payload does not fit"
    assert traceback_of(error) is None
    assert traceback_of(_raised(_lookup)) is not None


def test_an_error_that_cannot_say_what_it_is_is_told_all_the_same() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert report(BrokenError()) == "BrokenError: its text cannot be made: RuntimeError"


def test_a_chain_in_a_circle_ends() -> None:
    def circle() -> Any:
        first, second = ValueError("a"), TimeoutError("b")
        first.__cause__, second.__cause__ = second, first
        raise second

    assert "ValueError: a" in report(_raised(circle))
    looped = TimeoutError("c")
    looped.__cause__ = TimeoutError("d")
    looped.__cause__.__cause__ = looped
    assert report(looped) == "TimeoutError: c"
