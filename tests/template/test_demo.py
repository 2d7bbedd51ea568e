"""`make demo` ends well, can be read, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys

from tests.template.baking import ROOT, clean_environment


def test_the_demo_ends_with_status_0_and_fits_a_terminal() -> None:
    before = {path.name for path in ROOT.glob("build/*")}
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=840,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "equal in id, name, email, version and origin" in done.stdout
    assert "\x1b" not in done.stdout, "a pipe has no colours"
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert {path.name for path in ROOT.glob("build/*")} <= before
