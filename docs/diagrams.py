"""Draws the diagrams of docs/concepts.md: `make docs`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import schemdraw
from schemdraw import elements, flow

IMAGES = Path(__file__).resolve().parent / "images"
INK, PAPER = "#1f2933", "#ffffff"
FILL = {"plain": "#e8eef6", "good": "#dcefdc", "bad": "#f8dedc", "wait": "#fbf0d5"}
SMALL, NORMAL = 10, 12


class State(NamedTuple):
    """A box: its text, its middle, and how it looks."""

    text: str
    x: float
    y: float
    kind: str = "plain"
    width: float = 3.6


class Move(NamedTuple):
    """An arrow between two boxes, from a side (N, E, S, W) to a side."""

    start: str
    end: str
    text: str
    sides: str = "EW"
    where: str = "top"
    bend: float = 0.0
    shift: float = 0.0  # of the text, to the right


def states(name: str, boxes: dict[str, State], moves: Iterable[Move]) -> None:
    with _drawing(name) as drawing:
        made = {key: drawing.add(_box(state)) for key, state in boxes.items()}
        for move in moves:
            first, last = (getattr(made[key], side) for key, side in _ends(move))
            arrow = flow.Arc2(k=move.bend, arrow="->") if move.bend else flow.Line(arrow="->")
            arrow = arrow.at(first).to(last)
            place = {"loc": move.where, "ofst": (move.shift, 0.1)} if move.shift else {"loc": "top"}
            place = {"loc": move.where} if move.where == "bottom" else place
            drawing.add(arrow.label(move.text, fontsize=SMALL, **place))


def _ends(move: Move) -> Iterable[tuple[str, str]]:
    return zip((move.start, move.end), move.sides, strict=True)


def _box(state: State) -> Any:
    box: Any = flow.RoundBox(w=state.width, h=1.1, cornerradius=0.25)
    box = box.at((state.x, state.y)).anchor("center").fill(FILL[state.kind])
    return box.label(state.text, fontsize=NORMAL)


def sequence(name: str, actors: list[str], steps: list[tuple[int, int, str]]) -> None:
    """Lines of life from left to right, and messages from top to bottom."""
    gap, step = 4.6, 0.95
    bottom = -step * (len(steps) + 1) - 0.1
    with _drawing(name) as drawing:
        for number, actor in enumerate(actors):
            drawing.add(_box(State(actor, number * gap, 0, width=3.4)))
            line = flow.Line().at((number * gap, -0.55)).to((number * gap, bottom))
            drawing.add(line.linestyle(":").color("#8c96a3"))
        for row, (first, last, text) in enumerate(steps, 1):
            start, end = (first * gap, -step * row - 0.35), (last * gap, -step * row - 0.35)
            if first == last:
                drawing.add(elements.Dot(radius=0.08).at(start))
                note = elements.Label().at((start[0] + 0.2, start[1]))
                drawing.add(note.label(text, fontsize=SMALL, halign="left", valign="center"))
            else:
                arrow = flow.Line(arrow="->").at(start).to(end)
                drawing.add(arrow.label(text, "top", fontsize=SMALL))


def _drawing(name: str) -> schemdraw.Drawing:
    drawing = schemdraw.Drawing(file=str(IMAGES / name), show=False)
    drawing.config(fontsize=NORMAL, font="sans-serif", lw=1.3, color=INK, bgcolor=PAPER, margin=0.3)
    return drawing


def main() -> None:
    schemdraw.use("svg")
    states(
        "outbox-states.svg",
        {
            "begin": State("a transaction commits", 0, 0, width=4.2),
            "pending": State("pending", 6.5, 0),
            "sent": State("sent", 14.5, 0, "good"),
            "held": State("pending, held", 6.5, -3.4, "wait"),
            "failed": State("failed", 14.5, -3.4, "bad"),
            "gone": State("deleted", 20.5, 0, width=2.6),
        },
        [
            Move("begin", "pending", "INSERT"),
            Move("pending", "sent", "the stream acknowledged it"),
            Move("sent", "gone", "retention"),
            Move("pending", "held", "refused, or behind\none that was", "SN", "left", 0.3, 0.4),
            Move(
                "held",
                "pending",
                "its time has come, or\nits head is done",
                "NS",
                "right",
                0.3,
                -0.4,
            ),
            Move("held", "failed", "attempts used up"),
            Move("failed", "held", "an operator retries", "SS", "bottom", 0.25),
        ],
    )
    states(
        "message-states.svg",
        {
            "stored": State("in the stream", 0, 0),
            "hand": State("in a worker's hand", 7, 0, width=4.4),
            "processed": State("processed, acknowledged", 16, 0, "good", 5.4),
            "failed": State("failed, waits", 7, -3.4, "wait"),
            "dead": State("dead letter", 16, -3.4, "bad"),
        },
        [
            Move("stored", "hand", "delivered"),
            Move("hand", "processed", "inbox row and effect\ncommit together"),
            Move("hand", "failed", "the handler raised", "SN", "left", 0.3, 0.4),
            Move("failed", "hand", "delivered again", "NS", "right", 0.3, -0.4),
            Move("failed", "dead", "tries used up,\nor Unrecoverable"),
            Move("dead", "stored", "replay", "SS", "bottom", 0.42),
        ],
    )
    sequence(
        "event-life.svg",
        ["route", "PostgreSQL", "relay", "JetStream", "worker"],
        [
            (0, 1, "INSERT customers"),
            (0, 1, "INSERT outbox, COMMIT"),
            (1, 2, "NOTIFY, or the next look"),
            (2, 1, "claim rows of free lanes"),
            (2, 3, "publish, with Nats-Msg-Id"),
            (3, 2, "acknowledgement"),
            (2, 1, "UPDATE … sent, COMMIT"),
            (3, 4, "message"),
            (4, 4, "inbox row, handler,\nCOMMIT"),
            (4, 3, "acknowledgement"),
        ],
    )


if __name__ == "__main__":
    main()
