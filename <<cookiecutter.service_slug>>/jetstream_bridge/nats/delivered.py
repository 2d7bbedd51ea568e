"""What the subject of a message's acknowledgement says about its delivery."""

from __future__ import annotations

from typing import NamedTuple

from nats.errors import NotJSMessageError


class Delivered(NamedTuple):
    """Which delivery of which message."""

    stream: str
    consumer: str
    tries: int  # 1 the first time
    seq: int  # of the stream
    delivery: int  # its number among all deliveries of the consumer
    nanoseconds: int  # since 1970, when the stream stored the message


def delivered_at(reply: str) -> Delivered:
    """Read `$JS.ACK.{stream}.{consumer}.{tries}.{seq}.{count}.{nanoseconds}.{pending}`.

    Servers with a domain put domain and account in front of the stream, and may add parts at the
    end. Raises `NotJSMessageError` for any other subject.
    """
    parts = reply.split(".")
    first = 2 if len(parts) == 9 else 4
    if len(parts) < first + 7 or parts[0] != "$JS" or parts[1] != "ACK":
        raise NotJSMessageError
    stream, consumer, tries, seq, count, nanoseconds = parts[first : first + 6]
    try:
        return Delivered(stream, consumer, int(tries) or 1, int(seq), int(count), int(nanoseconds))
    except ValueError as error:
        raise NotJSMessageError from error
