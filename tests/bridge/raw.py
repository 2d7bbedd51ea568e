"""Messages as no client of ours would write them: header blocks byte for byte."""

from __future__ import annotations

from nats.aio.client import Client


async def publish_raw(client: Client, subject: bytes, block: bytes, data: bytes) -> None:
    """Publish `data` under a header block of any bytes; there is no acknowledgement."""
    size = len(block) + len(data)
    head = (
        b"HPUB %b %d %d" % (subject, len(block), size) if block else b"PUB %b %d" % (subject, size)
    )
    await client._send_command(head + b"\r\n" + block + data + b"\r\n")
    await client._flush_pending()
