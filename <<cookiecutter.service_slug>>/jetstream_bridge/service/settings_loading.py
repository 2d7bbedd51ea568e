"""Reading the settings at the start: every fault in one list, one line for each."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_sources import misspelt, service_links, unreadable

_EXIT_BAD_INPUT = 2
_Service = TypeVar("_Service", bound=BridgeSettings)


class InvalidSettings(Exception):  # noqa: N818 - it is what it says, and carries several faults
    """Some settings are wrong; `faults` has one line for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def read_settings(cls: type[_Service], **values: Any) -> _Service:
    """Read the settings from outside; raise `InvalidSettings` with every fault that is found.

    `values` win over everything outside.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        faults = [_fault(cls, detail) for detail in error.errors()]
    except tomllib.TOMLDecodeError as error:
        faults = [f"service.toml: it is not TOML: {error}"]
    except (UnicodeDecodeError, OSError) as error:
        faults = list(unreadable(_files(cls))) or [f"the settings cannot be read: {error}"]
    raise InvalidSettings(faults)  # outside: its context would hold the values, secrets too


def _files(cls: type[BridgeSettings]) -> dict[str, Path]:
    config = cls.model_config
    return {
        ".env": Path(str(config.get("env_file"))),
        "service.toml": Path(str(config.get("toml_file") or "service.toml")),
    }


def misread_values(cls: type[BridgeSettings]) -> list[str]:
    """What is given from outside and is likely not meant; one line for each."""
    fields = cls.model_fields
    return [*service_links(fields), *misspelt(fields, _files(cls)[".env"])]


def load_settings(cls: type[_Service]) -> _Service:
    """Read the settings, or say on stderr what is wrong with them and exit with status 2."""
    try:
        return read_settings(cls)
    except InvalidSettings as error:
        exit_with(error.faults)


def exit_with(faults: list[str]) -> NoReturn:
    """End this process for bad input: one line for each fault on stderr, status 2."""
    sys.stderr.write("".join(f"{fault}\n" for fault in faults))
    raise SystemExit(_EXIT_BAD_INPUT)


def _fault(cls: type[BridgeSettings], detail: ErrorDetails) -> str:
    """One line: the setting, what is wrong with its value, what would be right."""
    field_name = str(detail["loc"][0])
    rule = cls.model_fields[field_name].description
    if detail["type"] == "missing":
        return f"{field_name.upper()}: it is not set; write {rule}"
    shown = _shown(cls.model_fields[field_name], detail["input"])
    said = detail["msg"].removeprefix("Value error, ")
    said = said.replace("Input should", f"{shown} should", 1).replace("Tuple", shown, 1)
    names_what_is_right = detail["type"] == "literal_error" or ";" in said
    remedy = f"; write {rule}" if rule and not names_what_is_right else ""
    return f"{field_name.upper()}: {said}{remedy}".replace("\n", " ")


def _shown(field: FieldInfo, value: object) -> str:
    if isinstance(value, SecretStr) or "SecretStr" in str(field.annotation):
        return "the value (not shown)"
    return repr(value)
