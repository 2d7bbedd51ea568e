"""What does not fit in a payload, for logs and dead letters: never its values."""

from __future__ import annotations

from pydantic import ValidationError

_MOST = 5  # faults that are told


def payload_faults(error: ValidationError, *, below: int = 0) -> str:
    """Name the fields at fault, without the first `below` parts of their place.

    Never the values: they may be personal, and this is logged and stored.
    """
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'][below:])) or 'payload'}: {fault['msg']}"
        for fault in faults[:_MOST]
    )
