"""Which change of a payload's schema breaks readers of what is published, or peers who send it.

Each case is a change of one field, `f`: released, and now. What it breaks stands beside it, once
for a published event and once for a handled one; nothing there means that it breaks nobody.
"""

from __future__ import annotations

from typing import Any

import pytest

from jetstream_bridge.contracts.compatibility import Direction, breaking

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INT: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
NULL: Schema = {"type": "null"}
BOOL: Schema = {"type": "boolean"}


def enum(*values: object) -> Schema:
    return {"enum": list(values), "type": "string"}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def array(items: Schema | None, **more: Any) -> Schema:
    return {"type": "array", **({"items": items} if items is not None else {}), **more}


def record(required: str = "", *, more: Any = None, **fields: Schema) -> Schema:
    """An object; `required` names fields, `more` is `additionalProperties`."""
    found: Schema = {"type": "object", "properties": fields, "required": required.split()}
    return found if more is None else {**found, "additionalProperties": more}


def table(values: Any, **more: Any) -> Schema:
    return {"type": "object", "additionalProperties": values, **more}


def tagged(*cats: Schema) -> Schema:
    return {"oneOf": list(cats), "discriminator": {"propertyName": "kind"}}


CAT = record("kind lives", kind={"const": "cat"}, lives=INT)
LAZY_CAT = record("kind", kind={"const": "cat"}, lives=INT)
DOG = record("kind", kind={"const": "dog"})

ANY = ["something, and where it is is enough"]

# released, now, what breaks when it is published, what breaks when it is handled
CASES: dict[str, tuple[Schema, Schema, list[str], list[str]]] = {
    # types
    "same": (TEXT, TEXT, [], []),
    "another type": (
        *(TEXT, INT),
        ["f: type was string, and is integer now"],
        ["f: type was string, and is integer now"],
    ),
    "wider number": (INT, NUMBER, ["f: type was integer, and is number now"], []),
    "narrower number": (NUMBER, INT, [], ["f: type was number, and is integer now"]),
    "nullable": (TEXT, either(TEXT, NULL), ["f: type was string, and is string or null now"], []),
    "no longer nullable": (
        *(either(TEXT, NULL), TEXT),
        *([], ["f: type was string or null, and is string now"]),
    ),
    "nullable by a list of types": (
        *(TEXT, {"type": ["string", "null"]}),
        *(["f: type was string, and is string or null now"], []),
    ),
    "anything now": (TEXT, {}, ["f: type was string, and is any now"], []),
    "was anything": ({}, TEXT, [], ["f: type was any, and is string now"]),
    "anything still": ({}, {"title": "F"}, [], []),
    "nothing now": (
        {"type": "string"},
        {"not": {}},
        [],
        ["f: type was string, and is nothing now"],
    ),
    # values
    "value added": (enum("a"), enum("a", "b"), ['f: the value "b" is new'], []),
    "value removed": (enum("a", "b"), enum("a"), [], ['f: the value "b" is not accepted any more']),
    "values in another order": (enum("a", "b"), enum("b", "a"), [], []),
    "any text now": (
        *(enum("a", "b"), TEXT),
        *(['f: value was one of ["a", "b"], and is any string now'], []),
    ),
    "only some texts now": (
        *(TEXT, enum("a")),
        *([], ['f: value was any string, and is one of ["a"] now']),
    ),
    "constant is an enum of one": ({"const": "a"}, enum("a"), [], []),
    "another constant": (
        *({"const": "a"}, {"const": "b"}),
        ['f: the value "b" is new'],
        ['f: the value "a" is not accepted any more'],
    ),
    "one is not true": (
        *({"const": 1}, {"const": True}),
        ["f: type was integer, and is boolean now"],
        ["f: type was integer, and is boolean now"],
    ),
    "both booleans are a boolean": (BOOL, {"enum": [True, False]}, [], []),
    "one boolean": (
        *(BOOL, {"const": True}),
        *([], ["f: value was any boolean, and is one of [true] now"]),
    ),
    # numbers
    "lower limit raised": (
        *({**INT, "minimum": 1}, {**INT, "minimum": 2}),
        *([], ["f: minimum was 1, and is 2 now"]),
    ),
    "lower limit gone": (
        *({**INT, "minimum": 1}, INT),
        *(["f: minimum was 1, and is not limited now"], []),
    ),
    "above zero is from one on": (
        *({**INT, "exclusiveMinimum": 0}, {**INT, "minimum": 1}),
        *([], []),
    ),
    "above zero is not from one on for numbers": (
        *({**NUMBER, "exclusiveMinimum": 0}, {**NUMBER, "minimum": 1}),
        *([], ["f: minimum was not limited, and is 1 now"]),
    ),
    "the limit itself": (
        *({**NUMBER, "maximum": 5}, {**NUMBER, "exclusiveMaximum": 5}),
        *([], ["f: exclusiveMaximum was not limited, and is 5 now"]),
    ),
    "upper limit lowered": (
        *({**INT, "maximum": 9}, {**INT, "maximum": 8}),
        *([], ["f: maximum was 9, and is 8 now"]),
    ),
    "constants within a limit": ({**INT, "maximum": 9}, {"enum": [1, 9]}, [], ANY),
    "finer steps": (
        *({**NUMBER, "multipleOf": 0.5}, {**NUMBER, "multipleOf": 0.25}),
        *(["f: multipleOf was 0.5, and is 0.25 now"], []),
    ),
    "coarser steps": (
        *({**NUMBER, "multipleOf": 0.1}, {**NUMBER, "multipleOf": 0.3}),
        *([], ["f: multipleOf was 0.1, and is 0.3 now"]),
    ),
    # texts
    "shorter": (
        *({**TEXT, "maxLength": 9}, {**TEXT, "maxLength": 8}),
        *([], ["f: maxLength was 9, and is 8 now"]),
    ),
    "longer": (
        *({**TEXT, "minLength": 1}, {**TEXT, "minLength": 0}),
        *(["f: minLength was 1, and is 0 now"], []),
    ),
    "least length of nothing": (TEXT, {**TEXT, "minLength": 0}, [], []),
    "pattern": (
        *(TEXT, {**TEXT, "pattern": "^a"}),
        *([], ['f: pattern was not limited, and is "^a" now']),
    ),
    "another pattern": ({**TEXT, "pattern": "a"}, {**TEXT, "pattern": "b"}, ANY, ANY),
    "values that keep to a pattern": ({**TEXT, "pattern": "^a"}, enum("ab"), [], ANY),
    "format": (
        *(TEXT, {**TEXT, "format": "uuid"}),
        *([], ['f: format was not limited, and is "uuid" now']),
    ),
    "no format": ({**TEXT, "format": "date"}, TEXT, ANY, []),
    "another format": ({**TEXT, "format": "date"}, {**TEXT, "format": "date-time"}, ANY, ANY),
    "a format that keeps nothing out": (TEXT, {**TEXT, "format": "password"}, [], []),
    # arrays
    "items": (
        *(array(INT), array(NUMBER)),
        *(["f[]: type was integer, and is number now"], []),
    ),
    "items of any kind": (array(INT), array(None), ["f[]: type was integer, and is any now"], []),
    "fewer items": (array(INT, maxItems=3), array(INT, maxItems=2), [], ANY),
    "more items": (array(INT, maxItems=3), array(INT), ANY, []),
    "an item at least": (array(INT), array(INT, minItems=1), [], ANY),
    "a set": (array(INT), array(INT, uniqueItems=True), [], []),
    "no set any more": (
        *(array(INT, uniqueItems=True), array(INT)),
        *(["f: may have the same item twice now"], []),
    ),
    "one of a pair": (
        array(None, prefixItems=[INT, TEXT], minItems=2, maxItems=2),
        array(None, prefixItems=[INT, INT], minItems=2, maxItems=2),
        *(["f[1]: type was string, and is integer now"],) * 2,
    ),
    "a third one": (
        array(None, prefixItems=[INT, INT], minItems=2, maxItems=2),
        array(None, prefixItems=[INT, INT, INT], minItems=3, maxItems=3),
        *(ANY, ANY),
    ),
    "a pair is a list": (
        array(None, prefixItems=[INT, INT], minItems=2, maxItems=2),
        *(array(INT), ANY, []),
    ),
    # objects in objects
    "field added": (record(), record(x=INT), [], []),
    "required field added": (
        *(record(), record("x", x=INT)),
        *([], ["f.x: is new and required, and peers do not send it yet"]),
    ),
    "field removed": (record("x", x=INT), record(), ["f.x: is not published any more"], []),
    "optional field removed": (record(x=INT), record(), ["f.x: is not published any more"], []),
    "field may be missing": (record("x", x=INT), record(x=INT), ["f.x: may be missing now"], []),
    "field required": (record(x=INT), record("x", x=INT), [], ["f.x: is required now"]),
    "closed": (
        *(record("x", x=INT), record("x", x=INT, more=False)),
        *([], ["f: further fields are refused now (extra='forbid')"]),
    ),
    "field taken out of a closed one": (
        *(record(x=INT, y=INT, more=False), record(x=INT, more=False)),
        ["f.y: is not published any more"],
        ["f.y: is refused now (extra='forbid')"],
    ),
    "opened": (record("x", x=INT, more=False), record("x", x=INT), [], []),
    "any object becomes a model": (
        *(table(True), record(x=INT)),
        *([], ["f.x: type was any, and is integer now"]),
    ),
    "a model becomes any object": (
        *(record("x", x=INT), table(True)),
        ["f.x: is not published any more"],
        [],
    ),
    "values of a table": (
        *(table(INT), table(NUMBER)),
        *(["f{}: type was integer, and is number now"], []),
    ),
    "a table of what was a model": (
        record("x y", x=INT, y=TEXT, more=False),
        table(INT),
        *(ANY, ["f.y: type was string, and is integer now"]),
    ),
    "names of a table": (
        table(INT, propertyNames=enum("a", "b")),
        table(INT, propertyNames=enum("a")),
        *([], ['f{}: the value "b" is not accepted any more']),
    ),
    "any name in a table": (table(INT, propertyNames=enum("a")), table(INT), ANY, []),
    "size of a table": (table(INT), table(INT, minProperties=1), [], ANY),
    "required fields are properties": (
        record("x", x=INT),
        record("x", x=INT) | {"minProperties": 1},
        [],
        [],
    ),
    # unions
    "a branch more": (
        *(either(INT, TEXT), either(INT, TEXT, BOOL)),
        *(["f: type was integer or string, and is integer or string or boolean now"], []),
    ),
    "branches in another order": (either(INT, TEXT), either(TEXT, INT), [], []),
    "a branch that another has": (NUMBER, either(INT, NUMBER), [], []),
    "a field of a branch": (
        either(record("x", x=INT), NULL),
        either(record("x", x=TEXT), NULL),
        *(["f.x: type was integer, and is string now"],) * 2,
    ),
    "a field of a tagged branch": (
        *(tagged(CAT, DOG), tagged(LAZY_CAT, DOG)),
        *(["f.lives: may be missing now"], []),
    ),
    "a field of a tagged branch, the other way": (
        *(tagged(LAZY_CAT, DOG), tagged(CAT, DOG)),
        *([], ["f.lives: is required now"]),
    ),
    "a tag more": (tagged(CAT), tagged(CAT, DOG), ['f.kind: the value "dog" is new'], []),
    "all of": (
        *({"allOf": [{"type": "integer"}, {"minimum": 1}]}, {**INT, "minimum": 1}),
        *([], []),
    ),
    "all of, twice of one keyword": (
        *(INT | {"minimum": 6}, {**INT, "minimum": 5, "allOf": [{"minimum": 10}]}),
        *(["f: minimum was 6, and is 5 now"], ANY),
    ),
    "all of, twice of one keyword, and the same": (
        *({**INT, "minimum": 5, "allOf": [{"minimum": 10}]},) * 2,
        *([], []),
    ),
    "all of, fields in each": (
        record("a", a=TEXT),
        {"allOf": [record("a", a=TEXT), record("b", b=INT)]},
        *([], ANY),
    ),
    # what has no rule
    "what cannot be compared": ({"not": INT}, {"not": TEXT}, ANY, ANY),
    "what cannot be compared is the same": ({"not": INT}, {"not": INT}, [], []),
    "contains": (array(INT), array(INT, contains={"const": 1}), [], ANY),
    "words of the field": (
        {**INT, "title": "A", "description": "a", "default": 1, "examples": [1], "x-a": 1},
        {**INT, "title": "B", "description": "b", "default": 2, "deprecated": True},
        *([], []),
    ),
}


@pytest.mark.parametrize("direction", Direction)
def test_what_has_no_rule_and_refers_to_something_else_breaks(direction: Direction) -> None:
    def schema(part: dict[str, Any]) -> dict[str, Any]:
        return {"not": {"$ref": "#/$defs/A"}, "$defs": {"A": part}}

    assert breaking(schema(INT), schema(TEXT), direction)
    assert breaking(schema(INT), schema(INT), direction) == []


def test_a_limit_beside_a_reference_counts_with_the_one_behind_it() -> None:
    def schema(beside: int) -> dict[str, Any]:
        behind = {"A": {"type": "integer", "minimum": 10}}
        return {"$ref": "#/$defs/A", "minimum": beside, "$defs": behind}

    assert breaking({"type": "integer", "minimum": 6}, schema(3), Direction.HANDLED)
    assert breaking(schema(3), schema(3), Direction.HANDLED) == []


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", CASES)
def test_a_change_breaks_what_is_said_here(name: str, direction: Direction) -> None:
    old, new, published, handled = CASES[name]
    expected = published if direction is Direction.PUBLISHED else handled
    found = [str(fault) for fault in breaking(record("f", f=old), record("f", f=new), direction)]

    if expected is ANY:
        assert found
        assert all(line.startswith("f") for line in found)
    else:
        assert found == expected


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("side", [0, 1], ids=["released", "now"])
@pytest.mark.parametrize("name", CASES)
def test_what_does_not_change_breaks_nobody(name: str, side: int, direction: Direction) -> None:
    schema: Any = CASES[name][side]
    assert breaking(record("f", f=schema), record("f", f=schema), direction) == []


def node(name: str, **fields: Schema) -> Schema:
    """A schema whose definition refers to itself."""
    own = {"$ref": f"#/$defs/{name}"}
    return {**own, "$defs": {name: record("v", more=None, children=array(own), **fields)}}


@pytest.mark.parametrize("direction", Direction)
def test_a_schema_that_has_itself_as_a_part_comes_to_an_end(direction: Direction) -> None:
    assert breaking(node("A", v=INT), node("B", v=INT), direction) == []
    found = [str(one) for one in breaking(node("A", v=INT), node("B", v=TEXT), direction)]
    assert found == ["v: type was integer, and is string now"]


def test_what_is_wrong_deep_in_a_union_is_not_taken_for_fine() -> None:
    """The first look takes the pair for fine while it is under way; the second one does not."""
    link = {"$ref": "#/$defs/T"}

    def tree(value: Schema) -> Schema:
        leaf = record("kind v", kind={"const": "leaf"}, v=value)
        branch = record("kind left", kind={"const": "branch"}, left=link)
        return {**link, "$defs": {"T": tagged(branch, leaf)}}

    found = [str(one) for one in breaking(tree(INT), tree(NUMBER), Direction.PUBLISHED)]
    assert found == ["v: type was integer, and is number now"] or any("v: " in one for one in found)
    assert breaking(tree(INT), tree(NUMBER), Direction.HANDLED) == []


def test_many_kinds_that_have_each_other_are_compared_in_no_time() -> None:
    kinds = [f"K{number}" for number in range(12)]
    any_kind = tagged(*({"$ref": f"#/$defs/{kind}"} for kind in kinds))
    defs = {
        kind: record("kind", kind={"const": kind}, left=any_kind, right=any_kind) for kind in kinds
    }
    schema = record("root", root=any_kind) | {"$defs": defs}
    assert breaking(schema, schema, Direction.PUBLISHED) == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#/$defs/Gone"}, "'#/\\$defs/Gone' leads nowhere"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "leads to itself"),
        (record(f="integer"), "'integer' is no JSON Schema"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_schema_is_named(schema: Schema, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        breaking(schema, record(f=INT), Direction.PUBLISHED)
