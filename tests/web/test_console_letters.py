"""The page of dead letters at night: found, grouped, replayed with what became of it, discarded."""

from __future__ import annotations

import pytest

from jetstream_bridge import Unrecoverable
from jetstream_bridge.core.error_report import shortened
from jetstream_bridge.testing import Deliver, MockServer
from tests.waiting import eventually
from tests.web.conftest import DEAD, Dead, Handler
from tests.web.console import BASE, Page, Person

pytestmark = pytest.mark.usefixtures("bridge")

PLACE = f"{BASE}/dead-letters"


def _letters(page: Page) -> list[int]:
    """The sequences of the letters on a page, in their order."""
    places = [link.rpartition("/")[2] for link in page.links if f"{PLACE}/" in link]
    return [int(place) for place in places if place.isdigit()]


async def test_letters_are_grouped_and_each_group_leads_to_its_letters(
    person: Person, dead: Dead, deliver: Deliver
) -> None:
    for number in range(3):
        await dead.add(number)
    await deliver(b"{broken")
    page = await person.get(PLACE)
    assert "4 of 4 shown, newest first" in page.text
    assert _letters(page) == sorted(_letters(page), reverse=True)
    group = await person.get(page.link("error_class=Unrecoverable"))
    assert "3 of 4 match, 3 shown" in group.text
    assert "Discard all of these" in group.text
    assert _letters(group) == _letters(page)[1:]
    for reason in ("malformed_json", "no_handler", "max_deliver"):
        assert f'<option value="{reason}"' in page.answer.text


async def test_a_letter_is_found_by_its_event_and_by_its_resource(
    person: Person, dead: Dead, mock_nats: MockServer
) -> None:
    for number in range(3):
        await dead.add(number)
    newest = (await person.client.get(PLACE)).text
    first = await person.get(PLACE, resource="order:0")
    assert len(_letters(first)) == 1 and "order:0" in first.text
    letter = await person.get(f"{PLACE}/{_letters(first)[0]}")
    event_id = letter.link("event_id=").rpartition("=")[2]
    assert _letters(await person.get(PLACE, event_id=event_id)) == _letters(first)
    nothing = await person.get(PLACE, event_id="none", resource="")
    assert "No such letters" in nothing.text and event_id in newest


async def test_after_a_replay_it_is_said_how_many_failed_again(
    person: Person, dead: Dead, handler: Handler, mock_nats: MockServer
) -> None:
    for number in range(3):
        await dead.add(number)
    handler.error = Unrecoverable("still no such product")
    ask = await person.get(f"{PLACE}/replay-all")
    assert "3 events go back" in ask.text
    assert "3Unrecoverable" in ask.text.replace(" ", ""), "by kind, as the command's dry run"
    sent = await person.post(f"{PLACE}/replay-all", ask.fields)
    stored = mock_nats.stored
    await eventually(lambda: sum(one.subject == DEAD for one in stored) == 6)
    page = await person.get(sent.location)
    assert "3 letters are back on their subjects" in page.text
    assert "Of 3 replayed events, 3 failed again so far" in page.text
    assert page.text.count("failed again") == 4
    letter = await person.get(f"{PLACE}/{_letters(page)[0]}")
    assert "after the replay of letter" in letter.text

    handler.error = None
    sent = await person.post(f"{PLACE}/replay", {"sequence": str(_letters(page)[0])})
    assert "Of 1 replayed event, 0 failed again so far" in (await person.get(sent.location)).text


async def test_chosen_letters_are_discarded_after_a_question(person: Person, dead: Dead) -> None:
    for number in range(4):
        await dead.add(number)
    one, two, three, _ = _letters(await person.get(PLACE))
    ask = await person.post(f"{PLACE}/discard", {"sequence": [str(one), str(three)]})
    assert (ask.status, "Discard 2 letters" in ask.text) == (200, True)
    assert "cannot be undone" in ask.text
    assert len(_letters(await person.get(PLACE))) == 4
    sure: dict[str, str | list[str]] = {"sequence": [str(one), str(three)], "sure": "yes"}
    assert "2 letters are discarded" in await person.done(f"{PLACE}/discard", sure)
    assert "2 had gone already" in await person.done(f"{PLACE}/discard", sure)
    assert two in _letters(await person.get(PLACE))
    assert "No letter was chosen" in await person.done(f"{PLACE}/discard")


async def test_all_letters_of_a_filter_are_discarded_and_no_later_ones(
    person: Person, dead: Dead, deliver: Deliver
) -> None:
    for number in range(3):
        await dead.add(number)
    await deliver(b"{broken")
    ask = await person.get(f"{PLACE}/discard-all", error_class="Unrecoverable")
    assert "3 letters are deleted" in ask.text and "3Unrecoverable" in ask.text.replace(" ", "")
    await dead.add(4)
    assert "3 letters are discarded" in await person.done(f"{PLACE}/discard-all", ask.fields)
    left = await person.get(PLACE)
    assert len(_letters(left)) == 2 and "malformed_json" in left.text
    nothing = await person.get(f"{PLACE}/discard-all", reason="max_deliver")
    assert "There is no such letter" in nothing.text and "Go back" in nothing.text


def test_each_error_of_a_chain_is_cut_at_its_own_end() -> None:
    chain = f"OrderFailed: {'x' * 500}; caused by KeyError: 'name'; caused by {'y' * 500}"
    short = shortened(chain)
    assert len(short) < 280
    assert short.startswith("OrderFailed: xxx")
    assert "; caused by KeyError: 'name'; caused by yyy" in short
    assert shortened("whole") == "whole"
