"""What a handler's exception leaves behind: in the log, in the inbox, in the dead letter."""

from __future__ import annotations

import json

import pytest

from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.inbox.middleware import Logging
from jetstream_bridge.service.setting_types import LogFormat
from jetstream_bridge.testing import Deliver, Outcome, Published
from tests.logged import logged

_PLACE = "tests/testing/test_told_failures.py:{line} in look_up"


def look_up() -> str:
    table: dict[str, str] = {}
    return table["Bug"]


_LINE = look_up.__code__.co_firstlineno + 2


@pytest.fixture(params=["the worker's own lines", "the Logging middleware"])
def consumers(request: pytest.FixtureRequest) -> Consumers:
    consumers = Consumers()
    if "Logging" in request.param:
        consumers.use(Logging())

    @consumers.on("order.placed")
    async def handle(event: Event[dict[str, object]]) -> None:
        look_up()

    return consumers


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_a_failure_is_logged_with_class_place_and_traceback(
    deliver: Deliver, log_format: LogFormat
) -> None:
    with logged(log_format) as log:
        result = await deliver("order.placed", {"id": 7})
    text = log.getvalue()
    place = _PLACE.format(line=_LINE)
    assert result.outcome is Outcome.RETRIED
    assert f"KeyError: 'Bug' ({place})" in text
    if log_format == "json":
        [line] = [entry for entry in map(json.loads, text.splitlines()) if "exception" in entry]
        text = line["exception"]
        assert line["event_id"]
    assert "Traceback (most recent call last)" in text
    assert 'return table["Bug"]' in text
    assert text.rstrip().splitlines()[-1].startswith("KeyError: 'Bug'")


async def test_row_letter_and_test_helper_tell_class_words_and_place(
    deliver: Deliver, bridge: Bridge, published: Published
) -> None:
    told = f"KeyError: 'Bug' ({_PLACE.format(line=_LINE)})"
    result = await deliver("order.placed", {"id": 7})
    assert result.error == told
    for _ in range(bridge.config.max_deliver - 1):
        result = await deliver.again(result)
    assert (result.outcome, result.error) == (Outcome.DEAD_LETTERED, told)
    [letter] = published.dead_letters
    context = json.loads(letter.headers["x-dlq-context"])
    assert (context["error_class"], context["error_message"]) == ("KeyError", "'Bug'")
    assert context["raised_at"] == _PLACE.format(line=_LINE)


async def test_an_error_that_is_no_fault_of_own_code_has_no_traceback(deliver: Deliver) -> None:
    with logged("json") as log:
        result = await deliver(b"{broken")
    assert result.outcome is Outcome.DEAD_LETTERED
    assert "exception" not in "".join(log.getvalue())
