"""`adopt-gem`: this service takes the place of one that ran the Ruby gem jetstream_bridge 4.2.

Its database is the gem's, its name on the wire too. It is run twice, with the migrations between:
the gem's tables have the names of ours.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jetstream_bridge.cli import takeovers
from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, Yes, answer, confirm, number_of
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.core.errors import TopologyError
from jetstream_bridge.service.gem_adoption import Adopted, Adoption
from jetstream_bridge.topology.takeover import Takeover

commands = single()
_SHOWN = 5  # ids of events that cannot be copied


@commands.command(epilog="Example: python -m app.cli adopt-gem --dry-run")
def command(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do, change nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take over tables, ids, unsent events and consumers of a service that ran the gem.

    Stop the gem first. Exits with 3 while there is a step for you. It can be repeated.
    """
    if not dry_run:
        confirm("Is every process of the gem stopped?", yes=yes)

    async def work(service: Service) -> Status:
        await service.connect()
        in_use, found = await _durables(service, dry_run=dry_run)
        adoption = Adoption(
            service.database, service.bridge, takeovers.hearing(service), service.step
        )
        adopted = await adoption.run(dry_run=dry_run)
        if not dry_run and adopted.next_step is None and found:
            found = await takeovers.make_anew(service)
        text = "\n".join(_lines(adopted, found, in_use, dry_run))
        answer(text, _data(adopted, found, in_use, dry_run), as_json=as_json)
        return Status.FINE if adopted.next_step is None and not in_use else Status.DIFFERENCE

    run(work)


async def _durables(service: Service, *, dry_run: bool) -> tuple[str | None, list[Takeover]]:
    """What is to be made anew, before anything is changed: the gem has to be stopped for it.

    There is none on a stream that is not there, or that keeps what is acknowledged.
    """
    stream = await service.bridge.inspection.stream()
    if not stream.exists or stream.retention != "workqueue":
        return None, []
    try:
        return None, await takeovers.find(service)
    except TopologyError as error:
        if not dry_run:
            raise
        return str(error), []


def _lines(adopted: Adopted, found: list[Takeover], in_use: str | None, dry_run: bool) -> list[str]:
    copied = adopted.copied
    renamed, did = ("would rename", "would copy") if dry_run else ("renamed", "copied")
    lines = [f"{renamed} {name} to {new}" for name, new in adopted.tables.to_rename.items()]
    if dry_run or adopted.next_step is None:
        lines += [
            f"{did} {number_of(copied.processed, 'id')} of processed events"
            f" ({copied.dead_lettered} with a dead letter)",
            f"{did} {number_of(copied.unsent, 'unsent event')} ({copied.failed} that failed)",
        ]
        lines += [f"{'would make' if dry_run else 'made'} {takeover}" for takeover in found]
    if copied.unusable:
        shown = ", ".join(copied.unusable[:_SHOWN])
        more = ", ..." if len(copied.unusable) > _SHOWN else ""
        left = number_of(len(copied.unusable), "event")
        lines.append(f"! {left} cannot be sent from here, and stay where they are: {shown}{more}")
    if in_use is not None:
        lines.append(f"! {in_use}")
    if adopted.found_nothing:
        lines = ["there are no tables of the gem", *lines[2:]]
    if adopted.next_step is not None:
        again = "python -m app.cli adopt-gem"
        first = f"{again}, then " if dry_run and adopted.tables.to_rename else ""
        lines.append(f"next: {first}{adopted.next_step} && {again}")
    return lines


def _data(
    adopted: Adopted, found: list[Takeover], in_use: str | None, dry_run: bool
) -> dict[str, object]:
    copied = adopted.copied
    return {
        "dry_run": dry_run,
        "renamed": adopted.tables.to_rename,
        "processed": copied.processed,
        "dead_lettered": copied.dead_lettered,
        "unsent": copied.unsent,
        "failed": copied.failed,
        "unusable": copied.unusable,
        "consumers": takeovers.as_data(found),
        "in_use": in_use,
        "next": adopted.next_step,
    }
