"""Values of settings: durations, existing files, choices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
)
from pydantic_settings import (
    NoDecode,
)

from jetstream_bridge.core.durations import seconds
from jetstream_bridge.core.errors import ConfigurationError

# A path has a folder or a suffix, which a seed does not, and is shorter than a token or a PEM text.
_PATH = re.compile(r"(?=.*[/.\\])[^\n]{1,200}")


Pooler = Literal["none", "transaction"]


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


LogFormat = Literal["json", "console"]


def _duration(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a duration")
    try:
        return seconds(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _durations(value: object) -> object:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list of durations")
    return tuple(_duration(part) for part in value)


def _file(value: str | None) -> str | None:
    if value is None:
        return None
    if not _PATH.fullmatch(value):  # it may be what the file should hold: a key
        raise ValueError(
            "the value (not shown) does not look like a path; write the content into a file, "
            "and its path here"
        )
    if not Path(value).is_file():
        raise ValueError(f"{value!r} is not a file that this process can see")
    return value


Duration = Annotated[float, BeforeValidator(_duration)]


Durations = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_durations)]


ExistingFile = Annotated[str, AfterValidator(_file)]
