"""One stream of log lines for the service, its libraries and uvicorn alike.

JSON for machines, or coloured text on a terminal. Lines go to stderr; stdout stays free for what
a command prints.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from pydantic_core import to_json

from jetstream_bridge.core.log_lines import LineHandler
from jetstream_bridge.core.logger import structlog
from jetstream_bridge.service.setting_types import LogFormat, LogLevel

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")
# Two lines each time that readiness compares revisions; each statement with its values, which may
# be personal.
_CHATTY = ("alembic", "aiosqlite")


def configure_logging(
    level: LogLevel = "INFO",
    log_format: LogFormat | None = None,
    processors: Sequence[Processor] = (),
) -> None:
    """Send all logging through one handler; without a format, the terminal decides.

    `processors` see each line last before it is written, whoever logged it, as structlog's do.
    """
    chosen = log_format or ("console" if sys.stderr.isatty() else "json")
    _leave_out_what_no_line_shows()
    root = logging.getLogger()
    root.handlers = [log_handler(sys.stderr, chosen, processors)]
    root.setLevel(level)
    _reroute_uvicorn()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def log_handler(
    stream: TextIO, log_format: LogFormat, processors: Sequence[Processor] = ()
) -> logging.Handler:
    """Return what writes records to `stream`, a line for each."""
    # The quick way to JSON leads past processors.
    quick = log_format != "console" and not processors
    form = _JsonLines if quick else structlog.stdlib.ProcessorFormatter
    handler = LineHandler(stream)
    handler.setFormatter(
        form(
            foreign_pre_chain=_shared_processors(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *processors,
                *_rendering(log_format, colours=stream.isatty()),
            ],
        )
    )
    return handler


# What every record has; the rest are the fields of its line. `message` and `asctime` come from
# formatters, `color_message` from uvicorn, which gives each message twice.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__)
_NO_FIELDS = _STANDARD | {"message", "asctime", "color_message"}
_encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def _to_json(entry: EventDict) -> str:
    """Return a line. What pydantic's writer does not take, such as half of a surrogate pair, the
    standard library's does, in five times the time."""
    try:
        return to_json(entry, inf_nan_mode="constants", fallback=repr).decode()
    except ValueError:
        return _encode(entry)


class _JsonLines(structlog.stdlib.ProcessorFormatter):
    """Writes JSON. Lines without a traceback, and a worker writes one for each event, take a
    third of the time that the processors take for the same line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.stack_info or isinstance(record.msg, dict):
            return super().format(record)  # has a traceback, or comes from structlog
        added = islice(record.__dict__.items(), len(_STANDARD), None)
        fields = {name: value for name, value in added if name not in _NO_FIELDS}
        return self.line(record.name, record.levelno, record.getMessage(), fields, record.created)

    def line(
        self, logger: str, level: int, event: str, fields: Mapping[str, object], created: float
    ) -> str:
        """Return a line; `created` is in seconds since 1970."""
        entry = structlog.contextvars.get_contextvars()
        entry["event"] = event
        entry["logger"] = logger
        entry["level"] = _level_name(level)
        entry.update(fields)
        seconds = int(created)
        fraction = int((created - seconds) * 1_000_000)
        entry["timestamp"] = f"{_utc(seconds)}.{fraction:06d}Z"
        return _to_json(entry)


@functools.lru_cache(maxsize=32)
def _level_name(level: int) -> str:
    return logging.getLevelName(level).lower()


@functools.lru_cache(maxsize=2)
def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _leave_out_what_no_line_shows() -> None:
    """Process, thread and task are looked up for each record otherwise."""
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging.logThreads = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _without_uvicorns_colours,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _without_uvicorns_colours(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Uvicorn gives each message twice, the second time for its own formatter."""
    entry.pop("color_message", None)
    return entry


def _rendering(log_format: LogFormat, *, colours: bool) -> list[Processor]:
    if log_format == "console":
        # The default, where rich is installed, shows every local variable, secrets included, and
        # takes seconds for a traceback through SQLAlchemy.
        return [
            structlog.dev.ConsoleRenderer(
                colors=colours,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


def _reroute_uvicorn() -> None:
    """Uvicorn gives its loggers handlers of their own before it loads the application."""
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        if not logger.handlers and not logger.propagate:
            continue  # silenced by `--no-access-log`
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
