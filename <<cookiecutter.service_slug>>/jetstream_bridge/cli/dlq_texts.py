"""What `dlq` says of dead letters, for a person."""

from __future__ import annotations

from jetstream_bridge.cli.output import number_of
from jetstream_bridge.cli.relative_times import age
from jetstream_bridge.cli.table import Column, Row, table
from jetstream_bridge.events.dead_letter import one_line
from jetstream_bridge.web.admin import dlq as api

KINDS = (
    Column("LETTERS", numeric=True),
    Column("REASON"),
    Column("CLASS", shrinks=True),
    Column("TYPE", shrinks=True),
)


def replayed(done: api.ReplayedView) -> str:
    did = "would replay" if done.dry_run else "replayed"
    lines = [f"{did} {number_of(done.replayed, 'dead letter')}"]
    if done.skipped:
        lines.append(
            f"skipped {done.skipped} that cannot go back as they are; dlq show SEQ says why"
        )
    if done.more:
        lines.append("there are more: the limit was reached")
    if done.replayed and not done.dry_run:
        again = f"python -m app.cli dlq returned {done.since}"
        lines.append(f"how many failed again: {again}")
    return "\n".join(lines + kinds_below(done.kinds))


def discarded(done: api.DiscardedView) -> str:
    did = "would throw" if done.dry_run else "threw"
    lines = [f"{did} {number_of(done.discarded, 'dead letter')} away"]
    return "\n".join(lines + (kinds_below(done.kinds) if done.dry_run else []))


def came_back(found: api.ReturnedView) -> str:
    least = "at least " if found.more else ""
    text = f"{least}{number_of(found.returned, 'event')} failed again after the replay"
    return "\n".join([text, *kinds_below(found.kinds)])


def breakdown_text(found: api.BreakdownView) -> str:
    newest = "" if found.read >= found.total else f"; of the newest {found.read} letters"
    text = f"{found.matching} of {number_of(found.total, 'dead letter')}{newest}"
    return "\n".join([text, *kinds_below(found.kinds)])


def kinds_below(kinds: list[api.KindView]) -> list[str]:
    return ["", table(KINDS, kind_rows(kinds))] if kinds else []


def kind_rows(kinds: list[api.KindView]) -> list[Row]:
    return [
        Row((str(kind.letters), kind.reason, kind.error_class or "-", kind.event_type or "-"))
        for kind in kinds
    ]


def of_all(page: api.DeadLetterPage) -> str | None:
    shown = len(page.items)
    return f"{shown} of {number_of(page.total, 'dead letter')}" if shown < page.total else None


def letter_row(item: api.DeadLetterView) -> Row:
    return Row(
        (
            str(item.sequence),
            age(item.time),
            item.reason,
            item.error_class or "-",
            item.event_type or "-",
            item.resource or "-",
            str(item.deliveries),
        ),
        remark=one_line("", item.error, item.raised_at) or None,
    )
