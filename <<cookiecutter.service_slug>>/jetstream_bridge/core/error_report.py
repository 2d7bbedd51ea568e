"""An error as people are told of it: its class, what it says, and where in the service it arose.

The place is the innermost frame of the service's own code: neither of a library nor of this
package. Making the text never fails, and neither does an error whose own text cannot be made.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType, TracebackType

from sqlalchemy.exc import DBAPIError

from jetstream_bridge.core.columns import storable

MAX_REPORT = 2000  # characters
CAUSED_BY = "; caused by "  # between an error and what it was raised from
_CAUSES = 3  # how many errors of a chain are told
_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = tuple({f"{path}/" for name, path in sysconfig.get_paths().items() if "lib" in name})

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def report(error: BaseException) -> str:
    """Return the error in one line: `KeyError: 'name' (app/consumers/orders.py:12 in place)`.

    What the service's own code raised `from` another error is told with that one. Long texts are
    cut one by one, so that a long message does not hide its cause.
    """
    told = list(_told(error))
    share = MAX_REPORT // len(told)
    return CAUSED_BY.join(_line(one, share) for one in told)


def causes(error: BaseException) -> list[str]:
    """Return a line for each error that `error` was raised from by the service's own code."""
    told = list(_told(error))[1:]
    return [_line(one, MAX_REPORT // len(told)) for one in told]


def shortened(text: str, room: int = 240) -> str:
    """Cut an error for a list: each one of a chain at its own end, so that its cause is seen."""
    if len(text) <= room:
        return text
    parts = text.split(CAUSED_BY)
    share = max(40, (room - len(CAUSED_BY) * (len(parts) - 1)) // len(parts))
    return CAUSED_BY.join(
        part if len(part) <= share else f"{part[: share - 1]}\N{HORIZONTAL ELLIPSIS}"
        for part in parts[:_CAUSES]
    )


def message(error: BaseException) -> str:
    """Return what the error says, without its class; its class if it says nothing."""
    said = _said(error)
    if isinstance(error, BaseExceptionGroup):
        said = f"{said}, first {report(_first(error))}"
    return said or class_of(error)


def class_of(error: BaseException) -> str:
    return type(error).__name__


def raised_at(error: BaseException) -> str:
    """Return `app/consumers/orders.py:12 in place`; empty where no own code had a part in it."""
    one: BaseException | None = error
    for _ in range(_CAUSES):
        if one is None:
            break
        one = _first(one)
        own = [(frame, line) for frame, line in _frames(one.__traceback__) if _is_own(frame)]
        if own:
            return _place(*own[-1])
        # A time limit is raised around a handler; where that was is told by its cancellation.
        one = (one.__cause__ or one.__context__) if isinstance(one, TimeoutError) else None
    return ""


def traceback_of(error: BaseException) -> ExcInfo | None:
    """Return what a log line shows of `error`; None where no own code had a part in it."""
    if not raised_at(error):
        return None
    return type(error), error, error.__traceback__


def _told(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, where the service itself did that."""
    one: BaseException | None = error
    for _ in range(_CAUSES):
        if one is None:
            return
        yield one
        # Of errors of this package the message is made for people, and their causes may quote
        # payloads.
        cause = one.__cause__ if raised_at(one) and not isinstance(one, DBAPIError) else None
        one = cause if isinstance(cause, Exception) else None  # no cancellation


def _line(error: BaseException, share: int) -> str:
    at = raised_at(error)
    place = f" ({at})" if at else ""
    said = " ".join(message(error).split())
    name = class_of(error)
    text = name if said == name else f"{name}: {said}"
    room = share - len(place)
    return f"{text if len(text) <= room else text[: room - 3] + '...'}{place}"


def _said(error: BaseException) -> str:
    """What the error says; of one of the database the driver's words, not the statement too."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        driver = error.orig.__cause__ or error.orig
        return _said(driver) if not isinstance(driver, DBAPIError) else storable(str(driver))
    try:
        return storable(str(error))
    except Exception as fault:  # its own code made the text, and failed
        return f"its text cannot be made: {type(fault).__name__}"


def _first(error: BaseException) -> BaseException:
    """The first error of a group, however deep; any other error is itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_own(frame: FrameType) -> bool:
    name = _module(frame)
    if name == _PACKAGE or name.startswith(f"{_PACKAGE}."):
        return False
    file = frame.f_code.co_filename
    return not file.startswith(("<", *_LIBRARIES)) and "-packages" not in file


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _place(frame: FrameType, line: int) -> str:
    """The file as its module is imported: `app/consumers/orders.py`, wherever the service is."""
    parts = PurePath(frame.f_code.co_filename).parts
    packages = _module(frame).count(".") + (parts[-1] == "__init__.py")
    path = "/".join(parts[-1 - packages :])
    return f"{path}:{line} in {frame.f_code.co_qualname.rpartition('<locals>.')[2]}"
