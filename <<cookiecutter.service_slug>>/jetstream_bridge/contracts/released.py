"""The contract of a service as it was last released: a file in the service's own repository.

It has the payload schemas of what is published and of what is handled, sorted, so that a change of
it can be read in a review.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jetstream_bridge.contracts.catalog import EventCatalog
from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.events.payload_faults import payload_faults

CONTRACT_FILE = "contracts/events.json"  # from the service's folder


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Published(_Strict):
    """One version of what the service publishes."""

    event_type: str
    schema_version: int = Field(ge=1)
    destinations: tuple[str, ...]
    payload: dict[str, Any]


class Handled(_Strict):
    """What the service takes of one source. Null: DESTINATION_APP; a version that is not said."""

    event_type: str
    source: str | None
    schema_version: int | None
    oldest_version: int | None
    payload: dict[str, Any]


class Contract(_Strict):
    """All of it."""

    format: Literal[1] = 1
    published: tuple[Published, ...] = ()
    handled: tuple[Handled, ...] = ()

    def as_text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write it whole, or leave what is there; raises `OSError`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(self.as_text(), encoding="utf-8")
        os.replace(new, path)


def contract_of(catalog: EventCatalog) -> Contract:
    """Return what the code says now; raises `RegistrationError` for a payload without a schema."""
    published = (
        Published(
            event_type=event.event_type,
            schema_version=event.schema_version,
            destinations=event.declared.destinations,
            payload=event.schema(),
        )
        for event in catalog.published
    )
    handled = (
        Handled(
            event_type=event.pattern,
            source=None if event.default_source else event.source,
            schema_version=event.schema_version,
            oldest_version=event.oldest_version,
            payload=event.schema(),
        )
        for event in catalog.handled
    )
    return Contract(published=tuple(published), handled=tuple(handled))


def read_contract(path: Path) -> Contract | None:
    """Return what was released, None where nothing was; raise `ConfigurationError` for another
    file than `contract release` writes."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    try:
        return Contract.model_validate_json(text)
    except ValidationError as error:
        raise ConfigurationError(
            f"{path} is no contract: {payload_faults(error)}; take it from the repository again, "
            "or write it anew with: python -m app.cli contract release"
        ) from None
