"""Random models and changes: what counts as fine really is, for Pydantic and for JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from jetstream_bridge.contracts.compatibility import Direction, breaking
from jetstream_bridge.contracts.payload_schemas import read_schema, written_schema
from tests.contracts.payload_models import PAYLOADS, Payload, changed

CHANGES = PAYLOADS.flatmap(lambda old: st.tuples(st.just(old), changed(old)))


@given(PAYLOADS)
def test_a_model_does_not_break_itself(payload: Payload) -> None:
    schema = written_schema(payload.model)
    assert breaking(schema, schema, Direction.PUBLISHED) == []
    schema = read_schema(payload.model)
    assert breaking(schema, schema, Direction.HANDLED) == []


@given(CHANGES, st.data())
def test_a_handler_takes_what_it_took_where_nothing_breaks(
    change: tuple[Payload, Payload], data: st.DataObject
) -> None:
    old, new = change
    if breaking(read_schema(old.model), read_schema(new.model), Direction.HANDLED):
        event("breaks")
        return
    event("fine")
    for _ in range(3):
        sent = json.dumps(data.draw(old.payloads))
        old.model.model_validate_json(sent)  # or the test is wrong
        new.model.model_validate_json(sent)


@given(CHANGES, st.data())
def test_readers_of_the_released_schema_read_what_is_published_where_nothing_breaks(
    change: tuple[Payload, Payload], data: st.DataObject
) -> None:
    old, new = change
    released = written_schema(old.model)
    if breaking(released, written_schema(new.model), Direction.PUBLISHED):
        event("breaks")
        return
    event("fine")
    reader = jsonschema_rs.validator_for(_opened(released), validate_formats=True)
    for _ in range(3):
        payload = new.model.model_validate(data.draw(new.payloads))
        published = payload.model_dump(mode="json")
        assert [str(fault) for fault in reader.iter_errors(published)] == []


def _opened(schema: Any) -> Any:
    """As readers read: what they do not know they ignore."""
    if isinstance(schema, dict):
        open_ = "properties" in schema and schema.get("additionalProperties") is False
        return {
            name: _opened(value)
            for name, value in schema.items()
            if not (open_ and name == "additionalProperties")
        }
    return [_opened(one) for one in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("direction", Direction)
def test_enough_of_the_changes_are_of_either_sort(direction: Direction) -> None:
    """Or the tests above would look at nothing."""
    verdicts: list[bool] = []
    schema = written_schema if direction is Direction.PUBLISHED else read_schema

    @given(CHANGES)
    def look(change: tuple[Payload, Payload]) -> None:
        old, new = (schema(one.model) for one in change)
        verdicts.append(bool(breaking(old, new, direction)))

    look()
    assert min(verdicts.count(True), verdicts.count(False)) > len(verdicts) // 10
