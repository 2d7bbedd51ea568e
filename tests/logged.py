"""What the service writes into its log, line by line."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from jetstream_bridge.service.logs import log_handler
from jetstream_bridge.service.setting_types import LogFormat


@contextmanager
def logged(log_format: LogFormat) -> Iterator[io.StringIO]:
    """Collect what the process writes at LOG_LEVEL=INFO while the body runs."""
    stream = io.StringIO()
    handler = log_handler(stream, log_format)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
