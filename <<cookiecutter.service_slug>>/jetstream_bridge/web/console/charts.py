"""Small charts: a line over time as SVG path data, with what it shows in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jetstream_bridge.web.console import formatting as texts

WIDTH, HEIGHT = 100.0, 30.0
_MARGIN = 2.0  # above and below, for the line's own width

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Chart:
    line: str  # path data; a value that is not known leaves a gap
    area: str
    summary: str


def chart(moments: Sequence[float], values: Sequence[float | None]) -> Chart:
    """Draw `values` at `moments`, which go from 0 (five minutes ago) to 1 (now)."""
    known = [value for value in values if value is not None]
    if not known:
        return Chart("", "", "Nothing is known of the last five minutes.")
    highest = max(1.0, *known)
    runs = list(_runs(moments, values, highest))
    low, high = texts.number(min(known)), texts.number(max(known))
    return Chart(
        line=" ".join(_line(run) for run in runs),
        area=" ".join(_area(run) for run in runs),
        summary=f"In the last five minutes from {low} to {high}.",
    )


def _runs(
    moments: Sequence[float], values: Sequence[float | None], highest: float
) -> Iterator[list[Point]]:
    run: list[Point] = []
    for moment, value in zip(moments, values, strict=True):
        if value is None:
            if run:
                yield run
            run = []
        else:
            height = (HEIGHT - 2 * _MARGIN) * value / highest
            run.append((WIDTH * moment, HEIGHT - _MARGIN - height))
    if run:
        yield run


def _line(run: list[Point]) -> str:
    if len(run) == 1:  # a dot
        return f"M{_at(run[0])} h0.01"
    return "M" + " L".join(_at(point) for point in run)


def _area(run: list[Point]) -> str:
    first, last = run[0][0], run[-1][0]
    return f"{_line(run)} L{_at((last, HEIGHT))} L{_at((first, HEIGHT))} Z" if run[1:] else ""


def _at(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
