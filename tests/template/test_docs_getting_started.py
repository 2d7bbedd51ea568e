"""docs/getting-started.md, followed from top to bottom in a service made with the defaults."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.template.baking import ROOT
from tests.template.guides import Guide
from tests.template.test_static import mypy, ruff

PAGE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")


def test_the_guide_can_be_followed(default_service: Path, mypy_cache: Path, tmp_path: Path) -> None:
    service = tmp_path / "orders-service"
    shutil.copytree(default_service, service)
    guide = Guide(PAGE, service, "sqlite+aiosqlite:///./guide.db")
    guide.follow()

    assert " passed" in guide.said[-1]
    assert len(guide.written) == 6
    ruff(service, *guide.written)
    mypy(service, mypy_cache, *guide.written)
