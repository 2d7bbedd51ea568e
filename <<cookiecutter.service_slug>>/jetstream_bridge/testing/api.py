"""The management requests of JetStream: `$JS.API.…` in, JSON out, errors by the server's codes."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jetstream_bridge.core.subjects import overlaps
from jetstream_bridge.testing import consumer_config, stream_config
from jetstream_bridge.testing.api_requests import page_of, read_request
from jetstream_bridge.testing.consumer import MockConsumer
from jetstream_bridge.testing.errors import (
    ApiFault,
    NotSimulated,
    bad_request,
    consumer_not_found,
    name_mismatch,
    stream_not_found,
)
from jetstream_bridge.testing.stream import MockStream, Stored, rfc3339
from jetstream_bridge.testing.stream_config import Json

if TYPE_CHECKING:
    from jetstream_bridge.testing.server import MockServer

PREFIX = "$JS.API."
NAMES_PAGE, LIST_PAGE = 1024, 256
SUBJECTS_PAGE = 100_000
_LIMITS = (
    "max_memory",
    "max_storage",
    "max_streams",
    "max_consumers",
    "max_ack_pending",
    "memory_max_stream_bytes",
    "storage_max_stream_bytes",
)
_WITHOUT_BODY = frozenset({"STREAM.DELETE", "CONSUMER.INFO", "CONSUMER.DELETE"})

Call = Callable[[Sequence[str], Json], Json]


class Api:
    """Answers requests about the streams and consumers of `server`."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._calls: dict[str, Call] = {
            "STREAM.CREATE": self._create_stream,
            "STREAM.UPDATE": self._update_stream,
            "STREAM.INFO": self._stream_info,
            "STREAM.NAMES": self._stream_names,
            "STREAM.LIST": self._stream_list,
            "STREAM.DELETE": self._delete_stream,
            "STREAM.PURGE": self._purge_stream,
            "STREAM.MSG.GET": self._get_message,
            "STREAM.MSG.DELETE": self._delete_message,
            "CONSUMER.CREATE": self._create_consumer,
            "CONSUMER.DURABLE.CREATE": self._create_consumer,
            "CONSUMER.INFO": self._consumer_info,
            "CONSUMER.NAMES": self._consumer_names,
            "CONSUMER.LIST": self._consumer_list,
            "CONSUMER.DELETE": self._delete_consumer,
        }

    def knows(self, subject: str) -> bool:
        """Whether this is a request that the mock answers."""
        return subject == f"{PREFIX}INFO" or self._find(subject) is not None

    def answer(self, subject: str, payload: bytes) -> bytes:
        """Return the answer to a request."""
        if subject == f"{PREFIX}INFO":
            return json.dumps(self._account()).encode()
        found = self._find(subject)
        if found is None:
            raise NotSimulated(f"a request on {subject}")
        operation, names = found
        kind = operation.replace(".DURABLE", "").replace(".", "_").lower()
        answer: Json = {"type": f"io.nats.jetstream.api.v1.{kind}_response"}
        try:
            request = read_request(payload)
            if request and operation in _WITHOUT_BODY:
                raise ApiFault(400, 10038, "expected an empty request payload")
            answer |= self._calls[operation](names, request)
        except ApiFault as fault:
            answer["error"] = fault.as_json()
            if operation == "STREAM.PURGE":
                answer["purged"] = 0
            self._server.api_errors += 1
        return json.dumps(answer).encode()

    def rehearse(self, subject: str, payload: bytes) -> None:
        """Raise `NotSimulated` for a request whose body asks for what the mock does not do."""
        operation, names = self._find(subject) or ("", [])
        if operation == "STREAM.PURGE":
            self._rehearse_purge(names, payload)
        if not operation.endswith((".CREATE", ".UPDATE")):
            return
        with contextlib.suppress(ApiFault, KeyError, TypeError):
            request = read_request(payload)
            if operation.startswith("STREAM"):
                stream_config.stream_config(request)
                return
            if not request["config"].get("durable_name"):
                raise NotSimulated("a consumer that is not durable")
            config = consumer_config.consumer_config(request["config"], names[1])
            stream = self._server.streams.get(names[0])
            if stream is not None and names[1] not in stream.consumers:
                if stream.is_work_queue:
                    consumer_config.check_work_queue(config, ())
                consumer_config.check_explicit(config)

    def _rehearse_purge(self, names: Sequence[str], payload: bytes) -> None:
        with contextlib.suppress(ApiFault):
            request = read_request(payload)
            stream = self._server.streams.get(names[0])
            filtered = stream is not None and any(
                consumer.config.get("filter_subject") for consumer in stream.consumers.values()
            )
            if filtered and (request.get("seq") or request.get("keep")):
                # nats-server's num_pending is stale after that, now and then.
                raise NotSimulated("a purge of a part, by number, beside a filtered consumer")

    def _find(self, subject: str) -> tuple[str, list[str]] | None:
        tokens = subject.removeprefix(PREFIX).split(".")
        for length in (3, 2):
            operation = ".".join(tokens[:length])
            if operation in self._calls:
                return operation, tokens[length:]
        return None

    # --- streams

    def _create_stream(self, names: Sequence[str], request: Json) -> Json:
        config = self._wanted(names, request)
        present = self._server.streams.get(names[0])
        if present is not None:
            if stream_config.without_level(present.config) != stream_config.without_level(config):
                text = "stream name already in use with a different configuration"
                raise ApiFault(400, 10058, text)
            return {**self._about(present), "did_create": True}
        self._check_overlap(config)
        stream = MockStream(
            stream_config.with_level(config, self._server.version),
            self._server.now,
            self._server.wall_ns,
        )
        self._server.streams[stream.name] = stream
        return {**self._about(stream), "did_create": True}

    def _update_stream(self, names: Sequence[str], request: Json) -> Json:
        config = self._wanted(names, request)
        stream = self._stream(names[0])
        stream_config.check_update(stream.config, config)
        self._check_overlap(config)
        stream.config = stream_config.with_level(config, self._server.version)
        stream.limit()
        return self._about(stream)

    def _wanted(self, names: Sequence[str], request: Json) -> Json:
        if request.get("name") != names[0]:
            raise name_mismatch()
        return stream_config.stream_config(request)

    def _check_overlap(self, config: Json) -> None:
        others = [s for s in self._server.streams.values() if s.name != config["name"]]
        theirs = [subject for stream in others for subject in stream.config["subjects"]]
        if any(overlaps(mine, other) for mine in config["subjects"] for other in theirs):
            raise ApiFault(400, 10065, "subjects overlap with an existing stream")

    def _stream_info(self, names: Sequence[str], request: Json) -> Json:
        subjects = request.get("subjects_filter")
        page: Json = {"total": 0, "offset": 0, "limit": 0}
        stream = self._stream(names[0])
        if subjects:
            if request.get("offset"):
                raise NotSimulated("STREAM.INFO with an offset into the subjects")
            page = {"total": len(stream.subjects(subjects)), "offset": 0, "limit": SUBJECTS_PAGE}
        return {**page, **self._about(stream, subjects)}

    def _stream_names(self, names: Sequence[str], request: Json) -> Json:
        found = [stream.name for stream in self._streams(request)]
        answer = page_of(found, request, "streams", NAMES_PAGE)
        return answer if answer["streams"] else {**answer, "streams": None}

    def _stream_list(self, names: Sequence[str], request: Json) -> Json:
        found = [self._about(stream) for stream in self._streams(request)]
        answer = page_of(found, request, "streams", LIST_PAGE)
        return answer if answer["streams"] else {**answer, "streams": None}

    def _streams(self, request: Json) -> list[MockStream]:
        about = request.get("subject")
        return [
            stream
            for _, stream in sorted(self._server.streams.items())
            if not about or any(overlaps(about, one) for one in stream.config["subjects"])
        ]

    def _delete_stream(self, names: Sequence[str], request: Json) -> Json:
        self._stream(names[0])
        self._server.drop_stream(names[0])
        return {"success": True}

    def _purge_stream(self, names: Sequence[str], request: Json) -> Json:
        stream = self._stream(names[0])
        if stream.config["deny_purge"]:
            raise ApiFault(500, 10110, "stream purge not permitted")
        if request.get("seq") and request.get("keep"):
            raise bad_request()
        stream.prune()
        purged = stream.purge(
            request.get("filter"), before=request.get("seq", 0), keep=request.get("keep", 0)
        )
        return {"success": True, "purged": purged}

    def _get_message(self, names: Sequence[str], request: Json) -> Json:
        stream = self._stream(names[0])
        stored: Stored | None
        if "last_by_subj" in request:
            stored = stream.last(request["last_by_subj"])
        elif "next_by_subj" in request:
            stored = stream.next(request["next_by_subj"], request.get("seq", 0))
        elif request.get("seq"):
            stored = stream.get(request["seq"])
        else:
            raise bad_request()
        if stored is None:
            raise ApiFault(404, 10037, "no message found")
        parts = {"hdrs": stored.headers, "data": stored.data}
        coded = {name: base64.b64encode(value).decode() for name, value in parts.items() if value}
        place = {"subject": stored.subject, "seq": stored.seq}
        return {"message": {**place, **coded, "time": rfc3339(stored.ns)}}

    def _delete_message(self, names: Sequence[str], request: Json) -> Json:
        stream = self._stream(names[0])
        if stream.config["deny_delete"]:
            raise ApiFault(500, 10057, "message delete not permitted")
        if not request:
            raise bad_request()
        stream.prune()
        seq = request.get("seq", 0)
        first, last = stream.first_and_last()
        if not stream.remove(seq):
            if first < seq < last:
                raise ApiFault(400, 10043, f"sequence {seq} not found")
            raise ApiFault(500, 10057, "stream store EOF" if seq > last else "no message found")
        return {"success": True}

    def _stream(self, name: str) -> MockStream:
        stream = self._server.streams.get(name)
        if stream is None:
            raise stream_not_found()
        return stream

    def _about(self, stream: MockStream, subjects: str | None = None) -> Json:
        return {
            "config": stream.config,
            "created": stream.created,
            "state": stream.state(subjects),
            "ts": rfc3339(self._server.wall_ns()),
        }

    # --- consumers

    def _create_consumer(self, names: Sequence[str], request: Json) -> Json:
        if request.get("stream_name") != names[0]:
            raise name_mismatch()
        stream = self._stream(names[0])
        asked = request.get("config") or {}
        name = asked.get("durable_name") or asked.get("name")
        if len(names) < 2 or name != names[1]:
            text = "consumer name in subject does not match durable name in request"
            raise ApiFault(400, 10017, text)
        if request.get("action"):
            raise NotSimulated("a consumer with an action")
        limits = stream.config["consumer_limits"]
        config = consumer_config.consumer_config(asked, name, limits)
        consumer_config.check_limit(config, limits)
        self._check_consumer(stream, config)
        config = stream_config.with_level(config, self._server.version)
        present = stream.consumers.get(name)
        if present is not None:
            present.update(config)
            return self._about_consumer(present)
        consumer = MockConsumer(
            stream,
            config,
            deliver=self._server.deliver,
            now=self._server.now,
            wall_ns=self._server.wall_ns,
        )
        stream.consumers[name] = consumer
        return self._about_consumer(consumer)

    def _check_consumer(self, stream: MockStream, config: Json) -> None:
        present = stream.consumers.get(config["name"])
        others = [c.config for c in stream.consumers.values() if c is not present]
        if stream.is_work_queue:
            consumer_config.check_work_queue(config, others)
        if present is not None:
            consumer_config.check_update(present.config, config)
        elif 0 < stream.config["max_consumers"] <= len(others):
            raise ApiFault(400, 10026, "maximum consumers limit reached")

    def _consumer_info(self, names: Sequence[str], request: Json) -> Json:
        return self._about_consumer(self._consumer(names))

    def _consumer_names(self, names: Sequence[str], request: Json) -> Json:
        found = sorted(self._stream(names[0]).consumers)
        return page_of(found, request, "consumers", NAMES_PAGE)

    def _consumer_list(self, names: Sequence[str], request: Json) -> Json:
        consumers = sorted(self._stream(names[0]).consumers.items())
        found = [self._about_consumer(consumer) for _, consumer in consumers]
        return page_of(found, request, "consumers", LIST_PAGE)

    def _delete_consumer(self, names: Sequence[str], request: Json) -> Json:
        consumer = self._consumer(names)
        self._server.drop_consumer(names[0], consumer.name)
        return {"success": True}

    def _consumer(self, names: Sequence[str]) -> MockConsumer:
        consumer = self._stream(names[0]).consumers.get(names[1])
        if consumer is None:
            raise consumer_not_found()
        return consumer

    def _about_consumer(self, consumer: MockConsumer) -> Json:
        return {**consumer.info(), "ts": rfc3339(self._server.wall_ns())}

    # --- the account

    def _account(self) -> Json:
        streams = self._server.streams.values()
        limits: Json = {**dict.fromkeys(_LIMITS, -1), "max_bytes_required": False}
        return {
            "type": "io.nats.jetstream.api.v1.account_info_response",
            "memory": 0,
            "storage": sum(stream.bytes for stream in streams),
            "streams": len(self._server.streams),
            "consumers": sum(len(stream.consumers) for stream in streams),
            "limits": limits,
            "api": {"level": 5, "total": 0, "errors": self._server.api_errors},
        }
