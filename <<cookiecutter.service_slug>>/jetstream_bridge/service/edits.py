"""Edits of a service's files: everything under `app/`, and `.env`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch


class Edits:
    """What was edited since it was last taken."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: set[str] = set()
        self._any = asyncio.Event()
        self._done = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def watch(self) -> None:
        """Begin; until then nothing is ever edited."""
        self._tasks = [
            asyncio.create_task(self._watch(self._root / "app", DefaultFilter(), recursive=True)),
            # Editors replace the file, so its folder is watched; the one below it is not.
            asyncio.create_task(self._watch(self._root, _OnlyEnv(), recursive=False)),
        ]

    async def wait(self) -> None:
        """Return when something was edited that was not taken yet."""
        await self._any.wait()

    def take(self) -> str:
        """The names of the files that were edited, from the service's folder."""
        names, self._names = sorted(self._names), set()
        self._any.clear()
        return ", ".join(names)

    async def close(self) -> None:
        self._done.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _watch(self, folder: Path, wanted: DefaultFilter, *, recursive: bool) -> None:
        watching = awatch(
            folder, watch_filter=wanted, stop_event=self._done, recursive=recursive, step=100
        )
        async for changes in watching:
            self._names |= {str(Path(path).relative_to(self._root)) for _, path in changes}
            self._any.set()


class _OnlyEnv(DefaultFilter):
    def __call__(self, change: Change, path: str) -> bool:
        return Path(path).name == ".env" and super().__call__(change, path)
