"""Processes on one terminal: told apart, stopped in order, and all together."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator

import pytest

from jetstream_bridge.service.child_processes import Child, Children, Terminal
from tests.waiting import eventually

_SLEEP = "import time; print('up'); time.sleep(60)"
_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _SLEEP
_SAYS_BYE = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye'))); "
    + _SLEEP
)


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    children = Children(Terminal())
    yield children
    children.kill()
    await children.stop()


class _Output:
    """What was printed so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    def has(self, text: str, *, times: int = 1) -> bool:
        self.text += self._capsys.readouterr().out
        return self.text.count(text) >= times

    async def gets(self, text: str, *, times: int = 1) -> None:
        await eventually(lambda: self.has(text, times=times), what=f"{text!r} in the output")


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> _Output:
    return _Output(capsys)


async def _python(children: Children, name: str, program: str, *, grace: float = 10.0) -> Child:
    return await children.start(name, [sys.executable, "-c", program], grace=grace)


async def test_every_line_says_whose_it_is(children: Children, output: _Output) -> None:
    await _python(children, "one", "print('hello')")
    await _python(children, "another", "import sys; print('trouble', file=sys.stderr)")

    await output.gets("one      | hello\n")
    await output.gets("another  | trouble\n")
    assert "\x1b" not in output.text, "no colours where nobody sees them"


async def test_a_line_beyond_all_measure_does_not_end_the_output(
    children: Children, output: _Output
) -> None:
    await _python(children, "long", "print('x' * 3_000_000); print('still here')")

    await output.gets("still here")


async def test_children_are_stopped_in_the_reverse_order_of_their_start(
    children: Children, output: _Output
) -> None:
    for name in ("first", "second", "third"):
        await _python(children, name, _SAYS_BYE)
    await output.gets("| up", times=3)

    await children.stop()

    output.has("bye")
    goodbyes = [line.split()[0] for line in output.text.splitlines() if line.endswith("bye")]
    assert goodbyes == ["third", "second", "first"]


async def test_a_child_that_does_not_stop_is_killed_after_its_grace(
    children: Children, output: _Output
) -> None:
    child = await _python(children, "stubborn", _STUBBORN, grace=0.2)
    await output.gets("| up")

    started = time.monotonic()
    await children.stop()

    assert child.process.returncode == -9
    assert time.monotonic() - started < 5


async def test_all_can_be_killed_at_once(children: Children, output: _Output) -> None:
    child = await _python(children, "stubborn", _STUBBORN, grace=60)
    await output.gets("| up")

    stopping = asyncio.create_task(children.stop())
    children.kill()
    await asyncio.wait_for(stopping, 5)

    assert child.process.returncode == -9


async def test_the_first_that_ends_by_itself_is_named(children: Children, output: _Output) -> None:
    await _python(children, "lasting", _SLEEP)
    await _python(children, "short", "raise SystemExit(7)")

    ended = await asyncio.wait_for(children.first_to_end(), 10)

    assert (ended.name, ended.process.returncode) == ("short", 7)


async def test_ctrl_c_on_the_terminal_reaches_the_parent_alone(
    children: Children, output: _Output
) -> None:
    child = await _python(children, "child", _SLEEP)

    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)
