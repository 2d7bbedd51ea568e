"""docs/concepts.md has the states that the tables have, and the diagrams have no others."""

from __future__ import annotations

import re

import pytest

from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.outbox.tables import OutboxStatus
from tests.template.baking import ROOT

PAGE = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "statuses"), [("An outbox row", OutboxStatus), ("A message", InboxStatus)]
)
def test_every_status_of_the_table_is_explained(
    heading: str, statuses: type[OutboxStatus] | type[InboxStatus]
) -> None:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(explained) == sorted(statuses)


def test_every_diagram_is_there_and_described() -> None:
    shown = re.findall(r"!\[(.+?)\]\(images/(.+?\.svg)\)", PAGE)
    drawn = sorted(path.name for path in (ROOT / "docs" / "images").glob("*.svg"))
    assert sorted(name for _, name in shown) == drawn
    assert all(len(text) > 40 for text, _ in shown)
