"""One line for each event."""

from __future__ import annotations

import logging

from jetstream_bridge.core.error_report import report, traceback_of
from jetstream_bridge.core.log_lines import alone_with
from jetstream_bridge.inbox.middleware.ended import Ended

logger = logging.getLogger(__name__)

_LEVELS = {"retried": logging.WARNING, "dead_lettered": logging.ERROR}


class Logging:
    """Logs one line for each delivery, when its end is settled, and never the payload.

    The line has `event_id`, `event_type`, `resource`, `trace_id`, `deliveries`, `outcome` and
    `milliseconds`; of a failure also the error, and the traceback if own code had a part in it. The
    worker's own lines, which have no time, are then left out. Successes are logged at `level`,
    retries as warnings, dead letters as errors.
    """

    tells = True  # in place of the worker's own lines

    def __init__(self, *, level: int = logging.INFO) -> None:
        self._level = level

    def ended(self, end: Ended) -> None:
        level = _LEVELS.get(end.outcome, self._level)
        if not logger.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            "event_id": end.event_id,
            "event_type": end.event_type,
            "resource": end.resource,
            "trace_id": end.trace_id,
            "deliveries": end.deliveries,
            "outcome": end.outcome,
            "milliseconds": None if end.seconds is None else round(end.seconds * 1000, 3),
        }
        if end.delay is not None:
            fields["again_in_seconds"] = round(end.delay, 3)
        if end.error is not None:
            told, trace = report(end.error), traceback_of(end.error)
            logger.log(level, "event %s: %s", end.outcome, told, extra=fields, exc_info=trace)
        elif (handler := alone_with(logger)) is not None:
            handler.emit_fields(logger, level, f"event {end.outcome}", fields)
        else:
            # As `logger.log` does, which looks through the stack for its caller each time.
            place = (logger.name, level, __file__, 0, "event %s", (end.outcome,), None)
            logger.handle(logger.makeRecord(*place, func="ended", extra=fields))
