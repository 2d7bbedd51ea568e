"""How values are written for a person: moments, spans, numbers, and what events carry."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup, escape

from jetstream_bridge.web.admin.content import body_of, event_of

UNKNOWN = "\N{EM DASH}"
SHOWN = 50_000  # characters of a document on a page
_TOKEN = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*")(?=:)|(?P<text>"(?:[^"\\]|\\.)*")'
    r"|(?P<word>\b(?:true|false|null)\b)|(?P<number>-?\b\d[\d.eE+-]*)"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment as `<time>` needs it."""

    iso: str
    exact: str
    relative: str


def moment(value: datetime) -> Moment:
    at = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    seconds = (datetime.now(UTC) - at).total_seconds()
    exact = at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Moment(at.isoformat(timespec="milliseconds"), exact, _relative(seconds))


def _relative(seconds: float) -> str:
    size = abs(seconds)
    if size < 2:
        return "just now"
    return f"{span(size)} ago" if seconds > 0 else f"in {span(size)}"


def span(seconds: float) -> str:
    """Write a length of time in its largest fitting unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def number(value: float) -> str:
    """Write a count, or a rate with one decimal while it is small."""
    if 0 < value < 0.1:
        return "< 0.1"
    rounded = round(value, 1)
    if rounded == int(rounded) or rounded >= 100:
        return f"{rounded:,.0f}".replace(",", "\N{THIN SPACE}")
    return f"{rounded:.1f}"


def compact_number(value: int) -> str:
    """Write a count in at most four characters, for a badge."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value // size}{unit}"
    return str(value)


def size(value: float) -> str:
    """Write bytes in their largest fitting unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def document(content: bytes | str | None) -> tuple[Markup, str, int]:
    """Return what an event carries, for reading, and what it is: JSON, text or base64.

    A page stays light: of a long document the beginning is shown, and how much is left out.
    """
    if content is None:
        return Markup(""), "nothing", 0
    event = event_of(content)
    if event is not None:
        text = json.dumps(event, indent=2, ensure_ascii=False, default=str)
        return coloured(text[:SHOWN]), "JSON", max(0, len(text) - SHOWN)
    body = body_of(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    kind = "text, no JSON object" if body.encoding == "utf-8" else "base64, no text"
    shown, left_out = escape(body.data[:SHOWN]), max(0, len(body.data) - SHOWN)
    return shown, kind if body.data else "empty", left_out


def coloured(text: str) -> Markup:
    """Put each token of a JSON document into a `<span>` that says what it is."""
    parts: list[Markup] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(escape(text[end : token.start()]))
        parts.append(Markup('<span class="json-{}">{}</span>').format(token.lastgroup, token[0]))
        end = token.end()
    return Markup("").join([*parts, escape(text[end:])])
