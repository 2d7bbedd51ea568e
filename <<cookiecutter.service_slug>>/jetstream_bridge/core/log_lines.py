"""Log lines that are written together: one write to the stream for the lines of a whole batch.

Only where nothing else happens meanwhile. A line that waited for the event loop would be missing
when somebody looks for the reason why that loop stands still.

A worker writes a line for each event. Where nobody looks at records, neither a filter nor another
handler nor a factory of somebody's own, such a line is made without one, in a third of the time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import ClassVar, Protocol, TextIO, runtime_checkable


@runtime_checkable
class LineFormat(Protocol):
    """A formatter that makes the line of a record from what would stand in it."""

    def line(
        self, logger: str, level: int, event: str, fields: Mapping[str, object], created: float
    ) -> str:
        """Return the line; `created` is in seconds since 1970."""
        ...


# What a class of loggers may do to records; structlog's own class changes none of it. Tools that
# watch errors or traces put a function of their own into the standard library's class.
_OF_RECORDS = ("makeRecord", "handle", "callHandlers", "filter")


class LineHandler(logging.StreamHandler[TextIO]):
    """A handler for lines that may come many at a time."""

    collecting: ClassVar[int] = 0  # blocks of `written_together` that are open
    waiting: ClassVar[set[LineHandler]] = set()  # those that have lines since
    # By logger, while a block is open: the handler that writes its lines without records.
    alone: ClassVar[dict[logging.Logger, LineHandler | None]] = {}

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._form: LineFormat | None = None

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - logging's name
        super().setFormatter(fmt)
        self._form = fmt if isinstance(fmt, LineFormat) else None

    @property
    def needs_no_record(self) -> bool:
        """Whether its formatter makes the same lines without records, and no filter sees them."""
        return self._form is not None and not self.filters and self.level == logging.NOTSET

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._add(self.format(record))
        except RecursionError:  # as the standard library's handlers do
            raise
        except Exception:
            self.handleError(record)

    def emit_fields(
        self, logger: logging.Logger, level: int, event: str, fields: Mapping[str, object]
    ) -> None:
        """Do what `emit` does with a record of these `fields`, where `alone_with` returned this."""
        assert self._form is not None
        self.acquire()
        try:
            self._add(self._form.line(logger.name, level, event, fields, time.time()))
        except RecursionError:
            raise
        except Exception:
            self.handleError(logging.makeLogRecord({"name": logger.name, "msg": event}))
        finally:
            self.release()

    def _add(self, line: str) -> None:
        self._lines.append(line + self.terminator)
        if LineHandler.collecting:
            LineHandler.waiting.add(self)
        else:
            self._write()

    def write(self) -> None:
        """Write what was collected."""
        self.acquire()
        try:
            self._write()
        except (OSError, ValueError) as error:  # the stream is full, or closed
            self.handleError(logging.makeLogRecord({"msg": repr(error)}))
        finally:
            self.release()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        self.stream.write("".join(lines))
        self.flush()


@contextmanager
def written_together() -> Iterator[None]:
    """Collect the lines that are logged in this block, and write them when it ends.

    Nothing may be awaited inside.
    """
    if not LineHandler.collecting:
        LineHandler.alone.clear()
    LineHandler.collecting += 1
    try:
        yield
    finally:
        LineHandler.collecting -= 1
        if not LineHandler.collecting:
            while LineHandler.waiting:
                LineHandler.waiting.pop().write()


def alone_with(logger: logging.Logger) -> LineHandler | None:
    """Return the handler that is all that sees the records of `logger`; None where there is more.

    It is looked for once in a block of `written_together`, and outside of one there is none.
    """
    if not LineHandler.collecting:
        return None
    try:
        return LineHandler.alone[logger]
    except KeyError:
        found = LineHandler.alone[logger] = _found_alone(logger)
        return found


def _found_alone(logger: logging.Logger) -> LineHandler | None:
    usual = all(_is_standard(getattr(type(logger), name)) for name in _OF_RECORDS)
    if not usual or logger.filters or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    handlers: list[logging.Handler] = []
    above: logging.Logger | None = logger
    while above is not None:
        handlers += above.handlers
        above = above.parent if above.propagate else None
    if len(handlers) != 1 or not isinstance(handlers[0], LineHandler):
        return None
    return handlers[0] if handlers[0].needs_no_record else None


def _is_standard(method: object) -> bool:
    return type(method) is FunctionType and method.__globals__ is vars(logging)
