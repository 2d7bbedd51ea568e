"""A line for each event is made without a record only where nobody could tell the difference."""

from __future__ import annotations

import functools
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from jetstream_bridge.core.log_lines import LineHandler, alone_with, written_together
from jetstream_bridge.core.logger import structlog
from jetstream_bridge.inbox.middleware import Logging, logs
from jetstream_bridge.inbox.middleware.ended import Ended
from jetstream_bridge.service.logs import log_handler

END = Ended(
    outcome="processed",
    event_id="e1",
    event_type="order.changed",
    pattern="order.*",
    resource="order:Zoë",
    trace_id=None,
    deliveries=2,
    occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
    event=None,
    seconds=0.0125,
)


class Lines:
    """A logger that is a tree of its own, and what it wrote."""

    def __init__(self, log_format: Any = "json") -> None:
        self.stream = io.StringIO()
        # Of structlog's class, as the bridge's own loggers are.
        self.logger = structlog.stdlib._FixedFindCallerLogger("lines", logging.INFO)
        self.handler = log_handler(self.stream, log_format)
        self.logger.addHandler(self.handler)

    def read(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        return lines


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    found = Lines()
    monkeypatch.setattr(logs, "logger", found.logger)
    yield found
    LineHandler.alone.clear()


def without_moment(line: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    return line


def test_a_line_is_the_same_with_and_without_a_record(lines: Lines) -> None:
    with bound_contextvars(shard="7"):
        Logging().ended(END)
        [with_record] = lines.read()
        with written_together():
            assert alone_with(lines.logger) is lines.handler
            Logging().ended(END)
            assert not lines.stream.getvalue(), "it is written with the others"
        [without] = lines.read()
    assert list(with_record) == list(without), "in the same order"
    assert without_moment(with_record) == without_moment(without)
    assert without["event"] == "event processed"
    assert (without["resource"], without["milliseconds"]) == ("order:Zoë", 12.5)
    assert without["shard"] == "7"


def test_a_failure_has_a_record_for_its_traceback(lines: Lines) -> None:
    with written_together():
        Logging().ended(
            Ended(
                outcome="dead_lettered",
                event_id="e1",
                event_type="order.changed",
                pattern="order.*",
                resource="order:1",
                trace_id="t",
                deliveries=5,
                occurred_at=None,
                event=None,
                error=ValueError("no"),
            )
        )
    [line] = lines.read()
    assert (line["level"], line["outcome"]) == ("error", "dead_lettered")
    assert "no" in line["event"]


def add_handler(lines: Lines) -> None:
    lines.logger.addHandler(logging.NullHandler())


def add_handler_above(lines: Lines) -> None:
    lines.logger.parent = logging.Logger("above")
    lines.logger.parent.addHandler(logging.NullHandler())


def filter_logger(lines: Lines) -> None:
    lines.logger.addFilter(lambda record: True)


def filter_handler(lines: Lines) -> None:
    lines.handler.addFilter(lambda record: True)


def limit_handler(lines: Lines) -> None:
    lines.handler.setLevel(logging.ERROR)


def other_format(lines: Lines) -> None:
    lines.handler.setFormatter(logging.Formatter("%(message)s"))


def other_handler(lines: Lines) -> None:
    lines.logger.removeHandler(lines.handler)
    lines.logger.addHandler(logging.StreamHandler(lines.stream))


def own_class(lines: Lines) -> None:
    class Own(logging.Logger):
        def handle(self, record: logging.LogRecord) -> None: ...

    lines.logger.__class__ = Own  # type: ignore[assignment]


@pytest.mark.parametrize(
    "watch",
    [
        add_handler,
        add_handler_above,
        filter_logger,
        filter_handler,
        limit_handler,
        other_format,
        other_handler,
        own_class,
    ],
    ids=lambda change: change.__name__,
)
def test_who_looks_at_records_gets_them(lines: Lines, watch: Callable[[Lines], None]) -> None:
    with written_together():
        assert alone_with(lines.logger) is lines.handler
    watch(lines)
    with written_together():
        assert alone_with(lines.logger) is None, "each block looks anew"


@pytest.mark.parametrize("name", ["makeRecord", "handle", "callHandlers", "filter"])
def test_a_tool_that_took_the_place_of_a_method_gets_records(
    name: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Sentry and Datadog do, the one with a function of its own, the other with a wrapper."""
    before = getattr(logging.Logger, name)
    seen: list[str] = []

    @functools.wraps(before)
    def watched(self: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(name)
        return before(self, *arguments, **named)

    monkeypatch.setattr(logging.Logger, name, watched)
    with written_together():
        assert alone_with(lines.logger) is None
        Logging().ended(END)
    assert seen == [name]
    assert len(lines.read()) == 1


def test_a_factory_of_records_of_somebodys_own_is_used(lines: Lines) -> None:
    def make(*arguments: Any, **fields: Any) -> logging.LogRecord:
        record = logging.LogRecord(*arguments, **fields)
        record.span = "s1"
        return record

    logging.setLogRecordFactory(make)
    try:
        with written_together():
            Logging().ended(END)
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    [line] = lines.read()
    assert line["span"] == "s1"


def test_outside_of_a_block_there_are_records(lines: Lines) -> None:
    assert alone_with(lines.logger) is None


def test_processors_of_the_service_see_records() -> None:
    handler = log_handler(io.StringIO(), "json", [lambda logger, name, entry: entry])
    assert isinstance(handler, LineHandler)
    assert not handler.needs_no_record


def test_a_stream_that_is_closed_is_no_error_of_the_event(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with written_together():
        Logging().ended(END)
        lines.stream.close()
