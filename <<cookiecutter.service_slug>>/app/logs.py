"""One stream of log lines for the service, its libraries and uvicorn alike.

JSON for machines, or coloured text on a terminal. Lines go to stderr; stdout stays free for what
a command prints.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from app.settings import LogFormat, LogLevel

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")
_CHATTY = ("alembic",)  # two lines each time that readiness compares revisions


def configure_logging(level: LogLevel = "INFO", log_format: LogFormat | None = None) -> None:
    """Send all logging through one handler; without a format, the terminal decides."""
    chosen = log_format or ("console" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared_processors(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(chosen),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
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


def _rendering(log_format: LogFormat) -> list[Processor]:
    if log_format == "console":
        # The default, where rich is installed, shows every local variable, secrets included, and
        # takes seconds for a traceback through SQLAlchemy.
        return [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
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
