"""Random histories on the mock and on a real nats-server at once: every state is the same.

`HYPOTHESIS_PROFILE=search` looks further than the histories that every run has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jetstream_bridge.testing.servers import NatsServer
from tests.contract.lab import SECOND, Json
from tests.contract.pair import Pair, Side

SUBJECTS = st.sampled_from(["a", "b", "b.x"])
ANSWERS = st.sampled_from([b"+ACK", b"-NAK", b"+TERM", b"+WPI", b'-NAK {"delay": 3600000000000}'])
STREAMS = st.fixed_dictionaries(
    {"retention": st.sampled_from(["limits", "workqueue"])},
    optional={
        "max_msgs": st.sampled_from([3, 6]),
        "max_msgs_per_subject": st.sampled_from([1, 2]),
        "discard": st.sampled_from(["old", "new"]),
    },
)
DURABLES = st.fixed_dictionaries(
    {},
    optional={
        "max_deliver": st.sampled_from([1, 2, 3]),
        "max_ack_pending": st.sampled_from([1, 2, 3]),
    },
)
SEQUENCES = st.integers(0, 12)
NO_WAIT: Json = {"no_wait": True}
PATIENT: Json = {"expires": 3600 * SECOND}


class SameStates(RuleBasedStateMachine):
    """What a service and its operator may do, in any order. The subjects begin with the stream."""

    server: NatsServer
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self._resources = contextlib.ExitStack()
        self.pair = self._resources.enter_context(Pair(self.server, self.loop))
        self.number = 0
        self.restarts = 0
        self.consumers: dict[str, Json] = {}
        self.stream: Json = {}

    def teardown(self) -> None:
        self._resources.close()

    # --- where it begins

    @initialize(stream=STREAMS, first=DURABLES, other=DURABLES, split=st.booleans())
    def begin(self, stream: Json, first: Json, other: Json, split: bool) -> None:
        self.stream = {"name": self.pair.real.stream, **stream}
        self.stream["subjects"] = [f"{self.pair.real.stream}.>"]
        self._api("STREAM.CREATE.S", self.stream)
        if split:
            self.consumers["c"] = {**first, "filter_subject": self._subject("a")}
            self.consumers["d"] = {**other, "filter_subject": self._subject("b.>")}
        else:
            self.consumers["c"] = first
        for name in self.consumers:
            self._create(name)
        self.pair.agree(lambda side: side.listen(sorted(self.consumers)))
        self._look()

    # --- a service

    @rule(
        subject=SUBJECTS,
        msg_id=st.sampled_from(["", "", "id1", "id2", "id3"]),
        expected=st.one_of(
            st.just({}),
            st.tuples(
                st.sampled_from(
                    [
                        "Nats-Expected-Last-Sequence",
                        "Nats-Expected-Last-Subject-Sequence",
                    ]
                ),
                SEQUENCES.map(str),
            ).map(lambda pair: dict([pair])),
            st.sampled_from(["id1", "id2"]).map(lambda i: {"Nats-Expected-Last-Msg-Id": i}),
        ),
    )
    def publish(self, subject: str, msg_id: str, expected: dict[str, str]) -> None:
        headers = {**({"Nats-Msg-Id": msg_id} if msg_id else {}), **expected}
        self.number += 1
        data = f"m{self.number}"
        self.pair.agree(lambda side: side.publish(subject, data, headers))
        self._look()

    @rule(which=st.integers(0, 1), batch=st.integers(1, 4), no_wait=st.booleans())
    def pull(self, which: int, batch: int, no_wait: bool) -> None:
        self._ask(self._name(which), {"batch": batch, **(NO_WAIT if no_wait else PATIENT)})

    @precondition(lambda self: self.pair.real.held)
    @rule(which=st.integers(0, 30), word=ANSWERS)
    def answer(self, which: int, word: bytes) -> None:
        self.pair.answer(self._place(which), word)
        self._look()

    # --- time

    @precondition(lambda self: self.pair.real.held)
    @rule(which=st.integers(0, 30))
    def a_nak_with_a_delay_is_over(self, which: int) -> None:
        """Somebody has to wait for it, or else nobody could see when it is due."""
        place = self._place(which)
        name = self.pair.real.held[place].metadata.consumer
        for _ in range(5):
            if self._look()[name]["num_waiting"]:
                break
            self._ask(name, {"batch": 4, **PATIENT})
        else:
            return
        self.pair.answer(place, b'-NAK {"delay": 30000000}')
        self.pair.look_alike(sorted(self.consumers), after=0.06)

    # --- an operator

    @rule(seq=SEQUENCES)
    def delete_a_message(self, seq: int) -> None:
        self._api("STREAM.MSG.DELETE.S", {"seq": seq})

    @rule(
        request=st.one_of(
            st.just({}),
            st.fixed_dictionaries({"seq": SEQUENCES}),
            st.fixed_dictionaries({"keep": st.integers(1, 3)}),
            st.fixed_dictionaries({"filter": st.sampled_from(["a", "b.>", ">"])}),
        )
    )
    def purge(self, request: Json) -> None:
        if len(self.consumers) > 1 and {"seq", "keep"} & request.keys():
            return  # beside filtered consumers the mock refuses that as not simulated
        about = {k: self._subject(v) if k == "filter" else v for k, v in request.items()}
        self._api("STREAM.PURGE.S", about or None)

    @rule(
        request=st.one_of(
            st.fixed_dictionaries({"seq": SEQUENCES}),
            st.fixed_dictionaries({"last_by_subj": SUBJECTS}),
            st.fixed_dictionaries({"next_by_subj": SUBJECTS, "seq": SEQUENCES}),
        )
    )
    def read_a_message(self, request: Json) -> None:
        about = {k: self._subject(v) if k.endswith("subj") else v for k, v in request.items()}
        self._api("STREAM.MSG.GET.S", about)

    @rule(which=st.integers(0, 1), config=DURABLES)
    def update_a_consumer(self, which: int, config: Json) -> None:
        name = self._name(which)
        about = {k: v for k, v in self.consumers[name].items() if k == "filter_subject"}
        self.consumers[name] = {**about, **config}
        self._create(name)
        self._look()

    @rule(which=st.integers(0, 1))
    def make_a_consumer_anew(self, which: int) -> None:
        name = self._name(which)
        self._api(f"CONSUMER.DELETE.S.{name}", look=False)
        self._create(name)
        self._look()

    @rule(
        change=st.fixed_dictionaries(
            {},
            optional={
                "max_msgs": st.sampled_from([-1, 2, 5]),
                "max_msgs_per_subject": st.sampled_from([-1, 1, 2]),
                "discard": st.sampled_from(["old", "new"]),
            },
        )
    )
    def update_the_stream(self, change: Json) -> None:
        self.stream = {**self.stream, **change}
        self._api("STREAM.UPDATE.S", self.stream)

    @precondition(lambda self: self.restarts < 1)
    @rule()
    def restart(self) -> None:
        self.restarts += 1
        self.pair.agree(lambda side: side.restart())
        self._look()

    # --- in other words

    def _name(self, which: int) -> str:
        return sorted(self.consumers)[which % len(self.consumers)]

    def _subject(self, rest: str) -> str:
        return f"{self.pair.real.stream}.{rest}"

    def _create(self, name: str) -> None:
        stream = self.pair.real.stream
        config = {
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": 3600 * SECOND,  # no example takes as long
            **self.consumers[name],
        }
        body = {"stream_name": stream, "config": config}
        self._api(f"CONSUMER.DURABLE.CREATE.S.{name}", body, look=False)

    def _api(self, operation: str, body: Json | None = None, *, look: bool = True) -> None:
        async def ask(side: Side) -> Json:
            answer = await side.api(operation, body)
            message = answer.get("message") or {}
            message.pop("time", None)
            if "error" in answer and operation == "STREAM.MSG.DELETE.S":
                # Which of two codes says that there is no such message is a matter of its files.
                answer["error"] = "nothing to delete"
            told: Json = {k: answer[k] for k in ("success", "purged", "error") if k in answer}
            return {**told, "message": message}

        self.pair.agree(ask)
        if look:
            self._look()

    def _ask(self, name: str, request: Json) -> None:
        self.pair.agree(lambda side: side.ask(name, request))
        self._look()

    def _place(self, which: int) -> int:
        """One of the deliveries; the latest come first."""
        return -1 - which % len(self.pair.real.held)

    def _look(self) -> Json:
        return self.pair.look_alike(sorted(self.consumers))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.real
@pytest.mark.since("2.15")
def test_random_histories_have_the_same_states(loop: asyncio.AbstractEventLoop) -> None:
    with NatsServer() as server:
        machine = type("SameStates", (SameStates,), {"server": server, "loop": loop})
        searching = settings.get_current_profile_name() == "search"
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=1000 if searching else 30,
                stateful_step_count=40 if searching else 30,
            ),
        )
