"""What the generator does with answers: it refuses the bad ones and writes the good ones as text.

An answer is never run as a template, whatever it contains and whichever way it came in. A bad one
ends the run with status 1 and one line on stderr, before anything is written.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cookiecutter.prompt import render_variable
from jinja2 import Environment
from jinja2.ext import Extension

SERVICE_FOLDER = "<<cookiecutter.service_slug>>"

_SLUG = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", re.ASCII)
_RESERVED = ("dlq", "app")  # `dlq`: its subject would be the one of the dead letters
_SLUG_RULE = (
    "write at most 40 characters, lower-case letters, digits and single - or _ between them, "
    "beginning with a letter (^[a-z][a-z0-9]*([-_][a-z0-9]+)*$), and not dlq or app"
)
# Cookiecutter's own choices and yes-or-no would refuse a wrong word with a traceback.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "database": ("postgresql", "sqlite"),
    "deployment": ("kubernetes", "compose", "none"),
    "ci": ("github", "gitlab", "none"),
    "license": ("MIT", "Apache-2.0", "Proprietary"),
    "bridge": ("vendored", "installed"),
}
_YES_OR_NO = ("true", "yes", "y", "on", "1", "t", "false", "no", "n", "off", "0", "f")
_JOINERS = "\u200c\u200d"  # not printable by themselves, but part of many emoji and scripts
_SHOWN = 120  # characters of a refused value


class Answers(Extension):
    """The filters of the template, and the guard that keeps answers from being templates.

    `cruft update` bakes the old template and then the new one with this module as it was in the
    old: a filter that a template begins to need belongs in a new module, under a new name.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for use in (checked, one_line, in_quotes, in_markdown):
            environment.filters[use.__name__] = use

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        if source == SERVICE_FOLDER:
            # A replayed answers file renders no private key, so the folder's name asks once more.
            return "<<(cookiecutter | checked).service_slug>>"
        if _is_asked() and source not in _strings(questions()):
            return _literal(source)
        return source


def questions() -> dict[str, object]:
    """What cookiecutter.json says now: `cruft update` changes it while this module stays."""
    file = Path(__file__).with_name("cookiecutter.json")
    found: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return found


def checked(answers: Mapping[str, object]) -> Mapping[str, object]:
    """Return the answers given so far if every one of them keeps its rule; else end the run."""
    for name in _misnamed():
        known = ", ".join(question for question in questions() if not question.startswith("_"))
        raise SystemExit(f"{name}: there is no such question; the questions are {known}")
    for rule in (*RULES, *_choices()):
        if rule.question in answers and not rule.holds(answers[rule.question], answers):
            raise SystemExit(
                f"{rule.question}: {_shown(answers[rule.question])} is refused; {rule.text}"
            )
    return answers


def one_line(text: str) -> str:
    """The text on one line, for places that have no way to write a line break."""
    words = " ".join(text.split())
    return "".join(character for character in words if unicodedata.category(character) != "Cc")


def in_quotes(text: str) -> str:
    """What stands between double quotes and means `text` in TOML, JSON and YAML alike.

    Emoji and accents stay as they are: JSON wants surrogate pairs for a long escape and TOML
    forbids them, so only characters of four digits are escaped, and those are all that need it.
    """
    return "".join(_escape(character) for character in text)


def in_markdown(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would act on."""
    escaped = re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", one_line(text))
    return re.sub(r"^(\d*)([#+\-=.)])", r"\1\\\2", escaped)


@dataclass(frozen=True)
class Rule:
    """What must hold for the answer to one question; `text` tells how to put it right."""

    question: str
    text: str
    holds: Callable[[object, Mapping[str, object]], bool]


def _is_name(value: object, _: Mapping[str, object]) -> bool:
    if not isinstance(value, str) or not value.strip() or len(value) > 80:
        return False
    return all(character.isprintable() or character in _JOINERS for character in value)


def _is_slug(value: object, _: Mapping[str, object]) -> bool:
    if not isinstance(value, str) or len(value) > 40 or value in _RESERVED:
        return False
    return _SLUG.fullmatch(value) is not None


def _is_text(value: object, _: Mapping[str, object]) -> bool:
    return isinstance(value, str) and not any(
        "\ud800" <= character <= "\udfff" for character in value
    )


def _is_another_service(value: object, answers: Mapping[str, object]) -> bool:
    return value != answers.get("service_slug")


def _is_one_of(choices: Sequence[str]) -> Callable[[object, Mapping[str, object]], bool]:
    return lambda value, _: value in choices


def _is_another_project(value: object, answers: Mapping[str, object]) -> bool:
    """A project cannot depend on one of its own name."""
    slug = str(answers.get("service_slug")).replace("_", "-")
    return value != "installed" or slug != "jetstream-bridge"


def _is_yes_or_no(value: object, _: Mapping[str, object]) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _YES_OR_NO)


RULES = (
    Rule("service_name", "write 1 to 80 printable characters", _is_name),
    Rule("service_slug", _SLUG_RULE, _is_slug),
    Rule("description", "write text that UTF-8 can hold", _is_text),
    Rule("author", "write text that UTF-8 can hold", _is_text),
    Rule("destination_app", _SLUG_RULE, _is_slug),
    Rule("destination_app", "name another service than service_slug does", _is_another_service),
    Rule("bridge", "choose vendored, or another service_slug", _is_another_project),
    Rule("include_example", "choose true or false", _is_yes_or_no),
)


def _choices() -> Iterator[Rule]:
    for question, choices in CHOICES.items():
        yield Rule(question, f"choose {', '.join(choices)}", _is_one_of(choices))


def _misnamed() -> Iterator[str]:
    """Answers on Cookiecutter's command line to no question; it would ignore them."""
    program = Path(sys.argv[0])
    if "cookiecutter" in (program.stem, program.parent.name):
        for argument in sys.argv[1:]:
            name, given, _ = argument.partition("=")
            if given and name.isidentifier() and name not in questions():
                yield name


def _shown(value: object) -> str:
    text = ascii(value) if not _is_text(value, {}) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if unicodedata.category(character) == "Cc" or character in "\u2028\u2029\ufeff\ufffe\uffff":
        return f"\\u{ord(character):04x}"
    return character


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _is_asked() -> bool:
    """Whether the text at hand is the raw value of a question.

    Cookiecutter renders those alike: the defaults of cookiecutter.json, which are templates, and
    the answers of a command line, an answers file or cruft, which are not.
    """
    return any(frame.f_code is render_variable.__code__ for frame, _ in traceback.walk_stack(None))


def _literal(text: str) -> str:
    """A template that renders to exactly `text`."""
    escaped = "".join(
        f"\\x{ord(character):02x}" if character.isascii() and not character.isalnum() else character
        for character in text
    )
    return f'<<"{escaped}">>'
