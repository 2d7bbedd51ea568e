"""New handlers and new events: which files they are, and whether there is room for them.

Everything is decided before the first byte is written, and what cannot be written whole is taken
back, so that a command leaves either all of its files or none. No existing file is changed: each
event type gets a module of its own, and packages find their modules by themselves.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from jetstream_bridge.cli import scaffold_texts as texts
from jetstream_bridge.events.received_envelope import parse
from jetstream_bridge.inbox.registry import Consumers

_TYPE = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*(?:\.[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*)+")
_LONGEST = 56  # characters; the names that are made of the type fit a line then
_RULE = "write it like invoice.paid: small letters, digits, '-' and '_', with a dot between"
_REGISTERING = frozenset({"on", "upcast"})
_TAKEN = frozenset({"BaseModel", "AsyncSession", "PublishResult"})  # names of the modules' imports


class RefusedError(Exception):
    """What was asked for cannot be written; the message names the remedy."""


class BrokenServiceError(Exception):
    """The service's own code cannot be read."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be written; `what` says to a person what it holds."""

    path: str  # from the service's folder
    text: str
    what: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one command writes, and what its user does next."""

    event_type: str
    files: tuple[NewFile, ...]
    next_steps: tuple[str, ...]

    def write(self, root: Path) -> None:
        """Write every file, or none: raises `OSError` when one cannot be written."""
        made: list[Path] = []
        try:
            for file in self.files:
                path = root / file.path
                for folder in reversed([p for p in path.parents if not p.exists()]):
                    folder.mkdir()
                    made.append(folder)
                with path.open("x", encoding="utf-8") as opened:
                    made.append(path)
                    opened.write(file.text)
        except OSError:
            for path in reversed(made):
                path.rmdir() if path.is_dir() else path.unlink()
            raise

    def summary(self) -> str:
        """For a person: what was written where, and what comes next."""
        told = [file for file in self.files if file.what]
        width = max(len(file.path) for file in told)
        lines = ["Written:"]
        lines += [f"  {file.path:{width}}  {file.what}" for file in told]
        lines += ["Next:"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self.next_steps, 1)]
        return "\n".join(lines)

    def as_data(self) -> dict[str, object]:
        """For a program."""
        return {
            "event_type": self.event_type,
            "written": [file.path for file in self.files],
            "next": list(self.next_steps),
        }


LoadConsumers = Callable[[], Consumers]
Planner = Callable[[str, Path, LoadConsumers], Plan]


@dataclass(frozen=True, slots=True)
class _Names:
    """What an event type is called in Python."""

    event_type: str

    @property
    def module(self) -> str:
        return re.sub(r"[.-]", "_", self.event_type)

    @property
    def model(self) -> str:
        name = "".join(part.capitalize() for part in self.module.split("_"))
        return f"{name}Payload" if name in _TAKEN else name

    def filled(self, template: Template) -> str:
        return template.substitute(type=self.event_type, module=self.module, model=self.model)


def consumer(event_type: str, root: Path, load_consumers: LoadConsumers) -> Plan:
    """Plan a handler; raise `RefusedError` where there is one already."""
    names = _names(event_type)
    _check_no_handler(event_type, load_consumers)
    module, test = f"app/consumers/{names.module}.py", f"tests/consumers/test_{names.module}.py"
    _check_free(event_type, root, module, test)
    return Plan(
        event_type,
        (
            *_package(root, "tests/consumers", ""),
            NewFile(module, names.filled(texts.CONSUMER), f"{names.model} and its handler"),
            NewFile(test, names.filled(texts.CONSUMER_TEST), "its tests"),
        ),
        (
            f"Write what you need of the payload into {names.model}.",
            f"Write what is to happen into handle_{names.module}.",
            "make test    # the new tests pass already; the worker loads the module by itself",
        ),
    )


def event(event_type: str, root: Path, _load_consumers: LoadConsumers) -> Plan:
    """Plan an event; raise `RefusedError` where it is published already."""
    names = _names(event_type)
    _check_folder(event_type, root)
    _check_not_published(event_type, root)
    module = f"app/events/{names.module}.py"
    test = f"tests/events/test_{names.module}.py"
    _check_free(event_type, root, module, test)
    return Plan(
        event_type,
        (
            *_package(root, "tests/events", ""),
            NewFile(module, names.filled(texts.EVENT), f"{names.model}, declared"),
            NewFile(test, names.filled(texts.EVENT_TEST), "its tests"),
        ),
        (
            f"Write what the event tells into {names.model}.",
            f"In a route with `events: EventsDep`: await events.publish({names.model}(...))",
            "make test    # the new tests pass already",
        ),
    )


def _names(event_type: str) -> _Names:
    if not _TYPE.fullmatch(event_type) or len(event_type) > _LONGEST:
        raise RefusedError(
            f"{event_type!r} is no event type of 3 to {_LONGEST} characters; {_RULE}"
        )
    return _Names(event_type)


def _check_no_handler(event_type: str, load_consumers: LoadConsumers) -> None:
    try:
        consumers = load_consumers()
    except Exception as error:
        raise BrokenServiceError(
            f"the handlers in app/consumers cannot be loaded ({type(error).__name__}: {error}); "
            "put that right first, nothing was written"
        ) from error
    body = json.dumps({"event_type": event_type, "payload": {}}).encode()
    handler = consumers.find(parse(body), None)
    if handler is not None:
        raise RefusedError(
            f"{event_type}: {handler.place} gets it already; "
            "an event has one handler, so change that one"
        )


def _check_folder(event_type: str, root: Path) -> None:
    """Services made before events were declared have a module where the folder is."""
    if (root / "app/events.py").exists():
        raise RefusedError(
            f"{event_type}: app/events.py is one module; make it app/events/__init__.py first, "
            "with what docs/upgrading.md says of it"
        )


def _check_not_published(event_type: str, root: Path) -> None:
    for path in sorted((root / "app").rglob("*.py")):
        name = path.relative_to(root)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            raise BrokenServiceError(
                f"{name} is no Python ({error}); put that right first, nothing was written"
            ) from error
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and _publishes(call, event_type):
                raise RefusedError(
                    f"{event_type}: {name}:{call.lineno} has it already; change it there"
                )


def _publishes(call: ast.Call, event_type: str) -> bool:
    """Whoever is called with the type publishes it, but for what registers a handler."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in _REGISTERING:
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(isinstance(one, ast.Constant) and one.value == event_type for one in given)


def _check_free(event_type: str, root: Path, *paths: str) -> None:
    for path in paths:
        if (root / path).exists():
            raise RefusedError(f"{event_type}: {path} exists already; move it away or change it")


def _package(root: Path, folder: str, text: str) -> tuple[NewFile, ...]:
    path = f"{folder}/__init__.py"
    return () if (root / path).exists() else (NewFile(path, text, ""),)
