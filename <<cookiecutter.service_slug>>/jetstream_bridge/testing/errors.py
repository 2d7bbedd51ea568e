"""What the mock says when it is asked for more than it does, and JetStream's own errors."""

from __future__ import annotations


class NotSimulated(NotImplementedError):  # noqa: N818 - says what it is, in every test's log
    """The mock does not imitate this. Test it with a real nats-server (`make test-real`)."""

    def __init__(self, call: str) -> None:
        super().__init__(f"{call} is not simulated; test it with a real nats-server")
        self.call = call


class ApiFault(Exception):  # noqa: N818 - an answer of the server's, not a failure of the mock
    """An error answer of JetStream's API."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.err_code = err_code
        self.description = description

    def as_json(self) -> dict[str, object]:
        return {"code": self.code, "err_code": self.err_code, "description": self.description}


def bad_request() -> ApiFault:
    return ApiFault(400, 10003, "bad request")


def stream_not_found() -> ApiFault:
    return ApiFault(404, 10059, "stream not found")


def consumer_not_found() -> ApiFault:
    return ApiFault(404, 10014, "consumer not found")


def name_mismatch() -> ApiFault:
    return ApiFault(400, 10056, "stream name in subject does not match request")


def invalid_stream(description: str) -> ApiFault:
    return ApiFault(500, 10052, description)


def invalid_consumer(description: str) -> ApiFault:
    return ApiFault(500, 10012, description)
