"""Where settings come from, and what in these places is likely not what somebody meant.

Kubernetes puts a variable `WORKER_PORT=tcp://10.0.0.1:80` into every container beside a Service
that is called `worker`. That is an address and no port, so it counts as not set.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, PydanticBaseSettingsSource

from jetstream_bridge.service.presets import PRESETS

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://[0-9a-f.:\[\]]+:[0-9]+")
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_NAME = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=", re.MULTILINE)
_ALIKE = 0.88  # of 1: one wrong letter in ten, or two letters swapped


class PresetSource(PydanticBaseSettingsSource):
    """The lowest source of all: a value given by name anywhere wins over the preset's."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        chosen = self.current_state.get("preset")
        return dict(PRESETS.get(chosen, {})) if isinstance(chosen, str) else {}  # type: ignore[call-overload]


def without_service_links(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """Return the environment's source, blind to what Kubernetes put into it."""
    if isinstance(source, EnvSettingsSource):
        source.env_vars = {
            name: value for name, value in source.env_vars.items() if not _is_link(name, value)
        }
    return source


def service_links(fields: Collection[str]) -> list[str]:
    """The settings that are not taken from the environment, since Kubernetes has put them there."""
    return [
        f"{name}={value} is the address of a Service of Kubernetes and not used as the setting; "
        f"rename that Service, or write enableServiceLinks: false into the pod's spec"
        for name, value in sorted(os.environ.items())
        if name.lower() in fields and _is_link(name, value)
    ]


def misspelt(fields: Collection[str], env_file: Path) -> list[str]:
    """Names in `.env` or in the environment that are almost a setting's."""
    known = [field.upper() for field in fields]
    given = [*_names_in(env_file), *(name for name in os.environ if "_" in name)]
    return [
        f"{name} is no setting, and is not used; is {meant[0]} meant?"
        for name in sorted({name for name in given if name.upper() not in known})
        if (meant := difflib.get_close_matches(name.upper(), known, n=1, cutoff=_ALIKE))
    ]


def unreadable(files: Mapping[str, Path]) -> Iterator[str]:
    """One line for each of the files that cannot be read as UTF-8, by the name it is called."""
    for name, path in files.items():
        try:
            path.read_bytes().decode()
        except FileNotFoundError:
            continue
        except OSError as error:
            yield f"{name}: it cannot be read: {error.strerror}; give this user the right to"
        except UnicodeDecodeError as error:
            guess = _MARKS.get(error.object[:2], "another encoding")
            yield (
                f"{name}: it is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}"
                f", as in {guess}); save it as UTF-8"
            )


def _is_link(name: str, value: str | None) -> bool:
    is_port = name.lower().endswith("_port") or "_port_" in name.lower()
    return is_port and value is not None and _SERVICE_LINK.fullmatch(value) is not None


def _names_in(env_file: Path) -> list[str]:
    text = env_file.read_text(encoding="utf-8", errors="replace") if env_file.is_file() else ""
    return _NAME.findall(text)
