"""JetStream's management requests, as JSON in and JSON out.

Configurations stay the dictionaries that the server sent. A client's own classes know the fields
of their day only, and an update made from them resets every field they do not know.

Errors are told apart by the server's `err_code`, never by their text. What passes by itself (no
connection, no answer, no JetStream just now) is a `NatsConnectionError`; what does not is an
`ApiError`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Protocol

from nats.aio.msg import Msg

from jetstream_bridge.core.errors import ApiError, JetStreamUnavailableError, NatsConnectionError

Json = dict[str, Any]

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
SUBJECTS_OVERLAP = 10065
STREAM_INVALID = 10052  # the configuration, or a limit of the server that it breaks
STREAM_NEEDS_MAX_BYTES = 10113  # the account demands it
CONSUMER_NOT_FOUND = 10014
CONSUMER_CREATE = 10012  # also: this difference cannot be updated
CONSUMER_FILTER_TAKEN = (10099, 10100)  # on a work queue
CONSUMER_MAX_ACK_PENDING = 10121
NO_MESSAGE_FOUND = 10037

_REQUEST_LIMIT = 5.0  # seconds
_MAX_PAGES = 1000


class Requests(Protocol):
    """Who can send a request: the connection."""

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float) -> Msg: ...


class StreamApi:
    """The requests that the topology needs, each with a time limit."""

    def __init__(self, connection: Requests, *, limit: float = _REQUEST_LIMIT) -> None:
        self._connection = connection
        self._limit = limit

    async def account(self) -> Json:
        """Return what this user's account has and may have."""
        return await self._call("INFO")

    async def stream(self, name: str) -> Json | None:
        """Return the configuration of a stream, None if there is no such stream."""
        try:
            answer = await self._call(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        return _part(answer, "config")

    async def stream_info(self, name: str, *, count: str | None = None) -> Json | None:
        """Return a stream's configuration and state, None if there is no such stream.

        `count` is a subject whose messages are counted: `state.subjects` says how many.
        """
        body = {"subjects_filter": count} if count is not None else None
        try:
            return await self._call(f"STREAM.INFO.{name}", body)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def create_stream(self, config: Json) -> Json:
        return _part(await self._call(f"STREAM.CREATE.{config['name']}", config), "config")

    async def update_stream(self, config: Json) -> Json:
        """Replace a stream's configuration: `config` must be the whole of it."""
        return _part(await self._call(f"STREAM.UPDATE.{config['name']}", config), "config")

    async def streams_with(self, subject: str) -> list[str]:
        """Return the names of all streams some subject of which overlaps `subject`."""
        names: list[str] = []
        for _ in range(_MAX_PAGES):
            answer = await self._call("STREAM.NAMES", {"subject": subject, "offset": len(names)})
            page = answer.get("streams") or []
            names += page
            if not page or len(names) >= answer.get("total", 0):
                break
        return names

    async def message(self, stream: str, sequence: int) -> Json | None:
        """Return the message at `sequence`, None where there is none; nothing is consumed."""
        return await self._message(stream, {"seq": sequence})

    async def next_message(self, stream: str, subject: str, *, after: int) -> Json | None:
        """Return the first message on `subject` behind sequence `after`; nothing is consumed."""
        return await self._message(stream, {"seq": after + 1, "next_by_subj": subject})

    async def check_reading(self, stream: str) -> None:
        """Raise `PermissionDeniedError` if this user may not read the stream's messages."""
        with contextlib.suppress(ApiError):  # it names no message
            await self._call(f"STREAM.MSG.GET.{stream}", {})

    async def delete_message(self, stream: str, sequence: int) -> bool:
        """Delete one message; False when it was gone already."""
        try:
            await self._call(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
        except ApiError:
            # The server has several codes for what is not there, and one of them is also for
            # what it may not delete.
            if await self.message(stream, sequence) is not None:
                raise
            return False
        return True

    async def _message(self, stream: str, body: Json) -> Json | None:
        try:
            return _part(await self._call(f"STREAM.MSG.GET.{stream}", body), "message")
        except ApiError as error:
            if error.err_code == NO_MESSAGE_FOUND:
                return None
            raise

    async def consumer(self, stream: str, durable: str) -> Json | None:
        """Return a consumer's info, None if there is no such consumer."""
        try:
            return await self._call(f"CONSUMER.INFO.{stream}.{durable}")
        except ApiError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise

    async def put_consumer(self, stream: str, config: Json) -> Json:
        """Create a durable consumer, or update it in place; return its info."""
        request = {"stream_name": stream, "config": config}
        return await self._call(
            f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}", request
        )

    async def delete_consumer(self, stream: str, durable: str) -> None:
        try:
            await self._call(f"CONSUMER.DELETE.{stream}.{durable}")
        except ApiError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise

    async def consumers(self, stream: str) -> list[Json]:
        """Return the infos of all consumers of a stream."""
        found: list[Json] = []
        for _ in range(_MAX_PAGES):
            answer = await self._call(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
            page = answer.get("consumers") or []
            found += page
            if not page or len(found) >= answer.get("total", 0):
                break
        return found

    async def _call(self, operation: str, body: Json | None = None) -> Json:
        subject = f"$JS.API.{operation}"
        payload = b"" if body is None else json.dumps(body).encode()
        message = await self._connection.request(subject, payload, timeout=self._limit)
        try:
            answer = json.loads(message.data)
        except ValueError as error:
            raise NatsConnectionError(f"{subject}: the answer is not JSON") from error
        if not isinstance(answer, dict):
            raise NatsConnectionError(f"{subject}: the answer is not a JSON object")
        if failure := answer.get("error"):
            refused = ApiError(subject, failure)
            if refused.code == 503:
                raise JetStreamUnavailableError(str(refused))
            raise refused
        return answer


def _part(answer: Json, key: str) -> Json:
    part: Json = answer[key]
    return part
