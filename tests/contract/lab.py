"""How the contract's tests talk to JetStream: its raw requests and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tests.brokers import Broker
from tests.waiting import eventually

SECOND = 1_000_000_000
LIMIT = 10.0  # seconds for what has to come
QUIET = 0.15  # seconds in which what must not come would have come

Json = dict[str, Any]


class RefusedError(Exception):
    """An error answer of JetStream."""

    def __init__(self, error: Json) -> None:
        super().__init__(error.get("description"))
        self.code: int = error["code"]
        self.err_code: int = error["err_code"]
        self.description: str = error["description"]


@dataclass
class Pulled:
    """What came on an inbox: the messages, and the status messages as `(code, description)`."""

    messages: list[Msg]
    statuses: list[tuple[str, str]]
    headers: list[Mapping[str, str]]

    def add(self, message: Msg) -> None:
        headers = dict(message.headers or {})
        if "Status" not in headers:
            self.messages.append(message)
        else:
            self.statuses.append((headers["Status"], headers.get("Description", "")))
            self.headers.append(headers)

    @property
    def data(self) -> list[str]:
        return [message.data.decode() for message in self.messages]

    @property
    def tries(self) -> list[int]:
        return [message.metadata.num_delivered or 0 for message in self.messages]


class Lab:
    """One client on one broker."""

    def __init__(self, broker: Broker, client: Client) -> None:
        self.broker = broker
        self.client = client
        self.js = client.jetstream(timeout=LIMIT)

    async def api(self, operation: str, body: Json | None = None) -> Json:
        """Send a request; return the answer, or raise `RefusedError`."""
        payload = b"" if body is None else json.dumps(body).encode()
        answer: Json = json.loads(
            (await self.client.request(f"$JS.API.{operation}", payload, timeout=LIMIT)).data
        )
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer

    async def refusal(self, operation: str, body: Json | None = None) -> tuple[int, int]:
        """Send a request that must be refused; return its code and error code."""
        try:
            await self.api(operation, body)
        except RefusedError as refused:
            return refused.code, refused.err_code
        raise AssertionError(f"{operation} was not refused")

    async def stream(self, name: str = "S", *subjects: str, **config: Any) -> Json:
        subject_list = list(subjects or [f"{name.lower()}.>"])
        return await self.api(
            f"STREAM.CREATE.{name}", {"name": name, "subjects": subject_list, **config}
        )

    async def durable(self, stream: str = "S", name: str = "c", **config: Any) -> Json:
        settings = {"durable_name": name, "ack_policy": "explicit", **config}
        return await self.api(
            f"CONSUMER.DURABLE.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": settings},
        )

    async def publish(
        self, subject: str = "s.a", data: str = "", headers: Mapping[str, str] | None = None
    ) -> Json:
        """Publish as a request; return the acknowledgement, which may be an error."""
        reply = await self.client.request(
            subject, data.encode(), timeout=10, headers=dict(headers) if headers else None
        )
        answer: Json = json.loads(reply.data)
        return answer

    async def publish_many(self, number: int, subject: str = "s.a") -> None:
        for n in range(number):
            await self.publish(subject, f"m{n}")

    async def state(self, stream: str = "S") -> Json:
        state: Json = (await self.api(f"STREAM.INFO.{stream}"))["state"]
        return state

    async def info(self, stream: str = "S", durable: str = "c") -> Json:
        """What is known of a consumer, without its times."""
        info = await self.api(f"CONSUMER.INFO.{stream}.{durable}")
        for place in ("delivered", "ack_floor"):
            info[place].pop("last_active", None)
        return info

    async def inbox(self) -> Inbox:
        inbox = self.client.new_inbox()
        return Inbox(self, inbox, await self.client.subscribe(inbox))

    async def waiting(self, requests: int = 1) -> None:
        """Return when the server has put so many pull requests to the consumer."""

        async def are_waiting() -> bool:
            return bool((await self.info())["num_waiting"] == requests)

        await eventually(are_waiting, what=f"{requests} waiting requests")

    async def answer(self, message: Msg, word: bytes) -> None:
        """Say `+ACK`, `-NAK`, `+WPI` or `+TERM`, and return when the server has taken it."""
        reply = await self.client.request(message.reply, word, timeout=LIMIT)
        assert reply.data == b""

    async def pull(
        self, batch: int = 1, *, least: int = 0, stream: str = "S", durable: str = "c"
    ) -> Pulled:
        """Take what is there; the server says at once when there is no more.

        It may say so although the stream has acknowledged a message: a consumer hears of it a
        moment later. So until there are `least` messages, the question is asked again.
        """
        pulled = Pulled([], [], [])
        deadline = asyncio.get_running_loop().time() + LIMIT
        while True:
            wanted = batch - len(pulled.messages)
            inbox = await self.inbox()
            await inbox.ask(wanted, stream=stream, durable=durable, no_wait=True)
            part = await inbox.take(messages=wanted, statuses=1, either=True, quiet=0)
            await inbox.close()
            pulled = Pulled([*pulled.messages, *part.messages], part.statuses, part.headers)
            late = asyncio.get_running_loop().time() > deadline
            if late or len(pulled.messages) >= least:
                return pulled

    async def pull_waiting(self, batch: int = 1) -> Pulled:
        """Wait until `batch` messages have come."""
        inbox = await self.inbox()
        await inbox.ask(batch, expires=30 * SECOND)
        pulled = await inbox.take(messages=batch, quiet=0)
        await inbox.close()
        return pulled


class Inbox:
    """Where a pull request's answers come."""

    def __init__(self, lab: Lab, name: str, subscription: Subscription) -> None:
        self._lab = lab
        self._name = name
        self._subscription = subscription

    async def ask(
        self, batch: int = 1, *, stream: str = "S", durable: str = "c", **request: Any
    ) -> None:
        """Ask for messages; times are nanoseconds, as on the wire."""
        await self.ask_raw(
            json.dumps({"batch": batch, **request}).encode(), stream=stream, durable=durable
        )

    async def ask_raw(self, body: bytes, *, stream: str = "S", durable: str = "c") -> None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        await self._lab.client.publish(subject, body, reply=self._name)

    async def take(
        self, *, messages: int = 0, statuses: int = 0, either: bool = False, quiet: float = QUIET
    ) -> Pulled:
        """Wait for so many messages and status messages (for `either`: one or the other), and
        then take what else comes in `quiet` seconds."""
        pulled = Pulled([], [], [])
        deadline = asyncio.get_running_loop().time() + LIMIT
        while True:
            enough = (len(pulled.messages) >= messages, len(pulled.statuses) >= statuses)
            done = any(enough) if either else all(enough)
            if done and not quiet:
                return pulled
            left = deadline - asyncio.get_running_loop().time()
            try:
                pulled.add(await self._subscription.next_msg(timeout=quiet if done else left))
            except TimeoutError:
                return pulled

    async def close(self) -> None:
        await self._subscription.unsubscribe()
