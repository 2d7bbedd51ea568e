"""Events that nobody reads are named: a destination that is not there, and one that was renamed."""

from __future__ import annotations

import logging

import pytest
from nats.js.api import ConsumerConfig

from jetstream_bridge.topology.unread_subjects import UnreadSubject, UnreadWatch
from tests.bridge.consuming import STREAM, Service, recording
from tests.bridge.support import envelope
from tests.waiting import eventually

_DESTINATION, _EARLIER = "test.billing.sync.orders", "test.billing.sync.oders"
_RENAMED_SOURCE = "test.sales.sync.billing"


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetstream_bridge.topology.unread_subjects.FIRST_LOOK", 0.05)
    monkeypatch.setattr("jetstream_bridge.topology.unread_subjects.EVERY", 0.1)


async def _taken(service: Service, *more: str) -> None:
    jetstream = service.client.jetstream()
    config = (await jetstream.stream_info(STREAM)).config
    await jetstream.update_stream(config.evolve(subjects=[*(config.subjects or []), *more]))


async def test_subjects_with_events_and_no_reader_are_named_and_nothing_fails_for_it(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "jetstream_bridge.topology.unread_subjects")
    await _taken(service, _EARLIER, _RENAMED_SOURCE)
    await service.send_many(2, resources=1)  # these are read
    for number, subject in enumerate((_DESTINATION, _EARLIER, _EARLIER, _RENAMED_SOURCE)):
        await service.send(envelope(f"u{number}"), subject=subject)
    async with service.working(recording()) as bridge:
        await eventually(lambda: bridge.checks()["stream"].detail, what="they are noticed")
        check = bridge.checks()["stream"]
        assert check.ok
        assert (check.detail or "").split("; ")[::2] == [
            f"2 events wait on {_EARLIER}, which nobody reads",
            f"1 event waits on {_DESTINATION}, which nobody reads",
            f"1 event waits on {_RENAMED_SOURCE}, which nobody reads",
        ]
        assert "start orders, or correct DESTINATION_APP" in (check.detail or "")
        assert "is oders an earlier DESTINATION_APP?" in (check.detail or "")
        assert "handle it with source='sales'" in (check.detail or "")

        reader = ConsumerConfig(durable_name="reader", filter_subject=_DESTINATION)
        await service.client.jetstream().add_consumer(STREAM, reader)
        await eventually(
            lambda: _DESTINATION not in (bridge.checks()["stream"].detail or ""),
            what="the reader is noticed",
        )
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3, "each is told once"


async def test_with_a_reader_for_all_there_is_nothing_to_tell(service: Service) -> None:
    await service.send_many(1, resources=1)
    async with service.working(recording()) as bridge:
        assert await bridge.inspection.unread() == []
        assert bridge.checks()["stream"].detail is None


async def test_what_the_process_is_about_to_read_itself_is_not_named() -> None:
    """Its first look may come before its own consumer is there."""
    own = "test.orders.sync.billing"

    async def looked() -> list[UnreadSubject]:
        return [UnreadSubject(subject=subject, waiting=1, remedy="") for subject in (own, _EARLIER)]

    watch = UnreadWatch(looked, own=[own])
    await watch.look()
    assert [found.subject for found in watch.found] == [_EARLIER]
