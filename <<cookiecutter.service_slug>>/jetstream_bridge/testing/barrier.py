"""A client's words have reached the server."""

from __future__ import annotations

from nats.aio.client import Client


async def barrier(client: Client) -> None:
    """Return when the server has read all that `client` has said, its subscriptions included.

    nats-py writes the PING of its `flush` ahead of what waits in its buffer. That is written while
    the first one is answered, so the second one comes behind it. Raises nats-py's `TimeoutError`
    when the server does not answer for 10 s.
    """
    await client.flush()
    await client.flush()
