"""A release compared with the code of today: what breaks, what is only noted, and what is fine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from jetstream_bridge.contracts.changes import changes
from jetstream_bridge.contracts.released import Contract, read_contract
from jetstream_bridge.core.errors import ConfigurationError
from tests.contracts.services import Line, Paid, Service


class PlacedWithoutLines(BaseModel):
    id: int


class PaidWithDay(BaseModel):
    order_id: int
    day: str


class PaidWithPlace(BaseModel):
    order_id: int
    place: str | None = None


def compared(old: Service, new: Service) -> tuple[list[str], list[str]]:
    """What breaks, and what is noted."""
    found = changes(old.contract, new.contract)
    breaks = [
        f"{one.direction.value} {one.event}: {one.field or '-'}: {one.change}"
        for one in found.breaks
    ]
    return breaks, found.notes


def placed(**options: object) -> Service:
    return Service().publishes("order.placed", **options)  # type: ignore[arg-type]


def paid(**options: object) -> Service:
    return Service().handles("invoice.paid", **options)


LACKS_LINES = "published order.placed v1: lines: is not published any more"
NEEDS_DAY = "handled invoice.paid: day: is new and required, and peers do not send it yet"

CASES: dict[str, tuple[Service, Service, list[str], list[str]]] = {
    "nothing": (placed(), placed(), [], []),
    "a published field is gone": (placed(), placed(model=PlacedWithoutLines), [LACKS_LINES], []),
    "the new form is a version of its own": (
        placed(),
        placed().publishes("order.placed", model=PlacedWithoutLines, schema_version=2),
        *([], ["order.placed v2 is published and not released yet"]),
    ),
    "... and the old form changes all the same": (
        placed(),
        Service()
        .publishes("order.placed", model=PlacedWithoutLines)
        .publishes("order.placed", model=PlacedWithoutLines, schema_version=2),
        *([LACKS_LINES], ["order.placed v2 is published and not released yet"]),
    ),
    "the version is raised": (
        placed(),
        placed(model=PlacedWithoutLines, schema_version=2),
        [],
        [
            "order.placed v1 is not published any more, v2 is: its readers need to read that "
            "version, or an up-caster, before this is deployed",
            "order.placed v2 is published and not released yet",
        ],
    ),
    "a lower version is no remedy": (
        placed(schema_version=2),
        placed(model=PlacedWithoutLines),
        ["published order.placed v2: -: is not published any more"],
        ["order.placed v1 is published and not released yet"],
    ),
    "an event is not published any more": (
        *(placed(), Service()),
        *(["published order.placed v1: -: is not published any more"], []),
    ),
    "a destination is left out": (
        placed(destinations=["crm", "shipping"]),
        placed(destinations=["crm"]),
        *(["published order.placed v1: -: is not declared for shipping any more"], []),
    ),
    "a destination is added": (
        placed(destinations=["crm"]),
        placed(destinations=["crm", "shipping"]),
        *([], []),
    ),
    "a handler needs more": (paid(), paid(model=PaidWithDay), [NEEDS_DAY], []),
    "a handler reads more": (paid(), paid(model=PaidWithPlace), [], []),
    "an up-caster leads to what is read": (
        *(paid(), paid(model=PaidWithDay).upcasts("invoice.paid", 1)),
        *([], []),
    ),
    "two up-casters do": (
        paid(schema_version=1),
        paid(model=PaidWithDay).upcasts("invoice.paid", 2, 1),
        *([], []),
    ),
    "an up-caster of another type does not": (
        *(paid(), paid(model=PaidWithDay).upcasts("invoice.sent", 1)),
        *([NEEDS_DAY], []),
    ),
    "an up-caster of another source does not": (
        *(paid(), paid(model=PaidWithDay).upcasts("invoice.paid", 1, source="crm")),
        *([NEEDS_DAY], []),
    ),
    "an up-caster that begins too late does not": (
        *(paid(), paid(model=PaidWithDay).upcasts("invoice.paid", 2)),
        ["handled invoice.paid: -: no up-caster leads on from version 1 any more"],
        [],
    ),
    "the first up-caster is taken away": (
        paid().upcasts("invoice.paid", 1, 2),
        paid().upcasts("invoice.paid", 2),
        ["handled invoice.paid v3: -: no up-caster leads on from version 1 any more"],
        [],
    ),
    "all up-casters are taken away": (
        paid().upcasts("invoice.paid", 1),
        paid(schema_version=2),
        ["handled invoice.paid v2: -: no up-caster leads on from version 1 any more"],
        [],
    ),
    "an up-casted version changes without another step": (
        paid().upcasts("invoice.paid", 1),
        paid(model=PaidWithDay).upcasts("invoice.paid", 1),
        [NEEDS_DAY.replace("invoice.paid:", "invoice.paid v2:")],
        [],
    ),
    "a version that was read is not read": (
        *(paid(schema_version=2), paid(schema_version=1)),
        ["handled invoice.paid v2: -: version 2 was read, and 1 is the highest now"],
        [],
    ),
    "no handler": (
        *(paid(), Service()),
        [
            "handled invoice.paid: -: no handler takes it any more; what peers send is lost",
        ],
        [],
    ),
    "a handler of more": (paid(model=dict), Service().handles("invoice.*", model=dict), [], []),
    "a handler of another source": (
        *(paid(), paid(source="crm")),
        ["handled invoice.paid: -: no handler takes it any more; what peers send is lost"],
        ["invoice.paid from crm is handled and not released yet"],
    ),
    "a new handler": (Service(), paid(), [], ["invoice.paid is handled and not released yet"]),
    "both at once": (
        placed().handles("invoice.paid"),
        placed(model=PlacedWithoutLines).handles("invoice.paid", model=PaidWithDay),
        *([LACKS_LINES, NEEDS_DAY], []),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_breaks(name: str) -> None:
    old, new, breaks, notes = CASES[name]
    assert compared(old, new) == (breaks, notes)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("side", [0, 1], ids=["released", "now"])
def test_nothing_breaks_where_nothing_changes(name: str, side: int) -> None:
    service: Service = CASES[name][side]  # type: ignore[assignment]
    assert compared(service, service) == ([], [])


def test_each_break_has_a_remedy() -> None:
    for old, new, breaks, _ in CASES.values():
        found = changes(old.contract, new.contract).breaks
        assert len(found) == len(breaks)
        assert all(one.remedy for one in found)


def test_the_remedies_are_what_one_writes() -> None:
    [published] = changes(placed().contract, placed(model=PlacedWithoutLines).contract).breaks
    assert published.code == '@publishes("order.placed", schema_version=2)'
    [handled] = changes(paid().contract, paid(model=PaidWithDay).contract).breaks
    assert handled.code == '@upcast("invoice.paid", from_version=1)'


def test_a_contract_is_read_as_it_was_written(tmp_path: Path) -> None:
    contract = placed().handles("invoice.paid", model=Paid).contract
    path = tmp_path / "contracts" / "events.json"
    contract.write(path)
    before = path.read_bytes()
    contract.write(path)

    assert read_contract(path) == Contract.model_validate_json(contract.as_text())
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["events.json"]


def test_the_order_of_declarations_makes_no_difference() -> None:
    left = placed().publishes("a.b", model=Line).handles("x.y").handles("a.b")
    right = Service().publishes("a.b", model=Line).publishes("order.placed")
    right.handles("a.b").handles("x.y")
    assert left.contract.as_text() == right.contract.as_text()


def test_where_nothing_was_released_there_is_none(tmp_path: Path) -> None:
    assert read_contract(tmp_path / "events.json") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no contract: payload: Invalid JSON"),
        ('{"format": 2}', "format: Input should be 1"),
        ('{"format": 1, "published": [{}]}', r"published\.0\.event_type: Field required"),
        ('{"format": 1, "more": 1}', "more: Extra inputs are not permitted"),
    ],
)
def test_another_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "events.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_contract(path)
    assert str(path) in str(refused.value)
    assert "contract release" in str(refused.value)


def test_a_released_schema_that_is_none_is_named() -> None:
    contract = json.loads(placed().contract.as_text())
    contract["published"][0]["payload"] = {"$ref": "#/$defs/Gone"}
    with pytest.raises(ConfigurationError, match=r"a schema that is none: .*leads nowhere"):
        changes(Contract.model_validate(contract), placed().contract)
