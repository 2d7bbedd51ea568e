"""Log lines that are written together: one write to the stream for the lines of a whole batch.

Only where nothing else happens meanwhile. A line that waited for the event loop would be missing
when somebody looks for the reason why that loop stands still.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, TextIO


class LineHandler(logging.StreamHandler[TextIO]):
    """A handler for lines that may come many at a time."""

    collecting: ClassVar[int] = 0  # blocks of `written_together` that are open
    waiting: ClassVar[set[LineHandler]] = set()  # those that have lines since

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            if LineHandler.collecting:
                LineHandler.waiting.add(self)
            else:
                self._write()
        except RecursionError:  # as the standard library's handlers do
            raise
        except Exception:
            self.handleError(record)

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
    LineHandler.collecting += 1
    try:
        yield
    finally:
        LineHandler.collecting -= 1
        if not LineHandler.collecting:
            while LineHandler.waiting:
                LineHandler.waiting.pop().write()
