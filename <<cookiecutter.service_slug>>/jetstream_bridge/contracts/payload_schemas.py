"""The JSON Schema of a payload: as it is written when published, as it is read when handled.

The two differ. A field with a default is always written and need not be read; a decimal is written
as a text and read from a number too; names may have aliases on one side only.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from jetstream_bridge.core.errors import RegistrationError

LOCAL_REFERENCES = "#/$defs/{model}"


class _PayloadSchema(GenerateJsonSchema):
    """Pydantic's, and a decimal in a text is no text like any other."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
        found = super().decimal_schema(schema)
        for part in (found, *found.get("anyOf", ())):
            if part.get("type") == "string" and "pattern" not in part:
                part["format"] = "decimal"
        return found


def written_schema(model: type[BaseModel], *, references: str = LOCAL_REFERENCES) -> dict[str, Any]:
    """Return the schema of what is published of this model.

    `references` is the form of a `$ref`. Raises `RegistrationError` where a type has no schema.
    """
    by_alias = bool(model.model_config.get("serialize_by_alias"))
    return _schema(model, mode="serialization", by_alias=by_alias, references=references)


def read_schema(payload_type: Any, *, references: str = LOCAL_REFERENCES) -> dict[str, Any]:
    """Return the schema of what a handler with this payload takes; as `written_schema`."""
    config = getattr(payload_type, "model_config", {})
    by_alias = config.get("validate_by_alias", True) is not False
    return _schema(payload_type, mode="validation", by_alias=by_alias, references=references)


def _schema(payload_type: Any, *, mode: Any, by_alias: bool, references: str) -> dict[str, Any]:
    try:
        return TypeAdapter(payload_type).json_schema(
            mode=mode,
            by_alias=by_alias,
            ref_template=references,
            schema_generator=_PayloadSchema,
        )
    except PydanticUserError as error:
        name = getattr(payload_type, "__qualname__", repr(payload_type))
        raise RegistrationError(
            f"the payload {name} has no JSON Schema ({error.message.splitlines()[0]}); annotate "
            "the field with pydantic's WithJsonSchema"
        ) from error
