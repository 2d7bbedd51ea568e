"""Writes docs/configuration.md: `make docs`, or with `--check` only says whether it is right.

What a setting is for is told once, in the generated service's `.env.example`; what it may be and
its default come from the code. A setting that one of them has and the other lacks, or a default
on which they differ, is an error.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "<<cookiecutter.service_slug>>"
PAGE = ROOT / "docs" / "configuration.md"
sys.path.insert(0, str(SERVICE))

from app.settings import Settings  # noqa: E402
from jetstream_bridge.core.durations import humanize, seconds  # noqa: E402
from jetstream_bridge.service.presets import PRESETS  # noqa: E402

_SECTION = re.compile(r"# --- (?P<title>.+?) -*")
_SETTING = re.compile(r"(?:# )?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>\S*)")
_FROM_THE_GENERATOR = re.compile(r"<<.*>>")
_NAMED = re.compile(r"(?<![\w`{])(?P<name>[A-Z][A-Z0-9_]+)(?P<value>=[a-z]+)?(?![\w`])")

_FILLED = textwrap.TextWrapper(width=100, break_long_words=False, break_on_hyphens=False)

HEAD = """\
# Configuration

<!-- Written by `make docs` from the settings' code and `.env.example`: change those. -->

A setting comes from the first of these places that has it:

1. the environment of the process,
2. `.env` in the folder in which the process was started,
3. `app/service.toml`, which the generator fills in with who the service is,
4. the preset that `PRESET` names, see below,
5. the default.

An empty value counts as not set. Durations are written `250ms`, `30s`, `5m`, `2h`, `1d`, or as a
bare number of seconds. Settings are checked all together before anything starts: what is wrong
stops the process with status 2 and one line for each fault, which says what is wrong and what would
be right. What works but is likely not meant is logged as a warning, with the arithmetic. No secret
is ever logged or shown.

`service_name` and `description` in `app/service.toml` are shown by the API's own documentation and
change nothing else.
"""
PRESETS_HEAD = """\
## Presets

A preset is a set of defaults. A setting that is given by name, in any of the places above, wins
over it. A preset never contains an address, a name or a secret.
"""


@dataclass
class Group:
    """Settings that are explained together."""

    title: str  # of its section
    text: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)  # name, and its value in the file


class DocumentationError(Exception):
    """The code and `.env.example` do not tell the same."""


def groups(lines: list[str]) -> Iterator[Group]:
    """Read `.env.example`: sections of paragraphs, each followed by its settings."""
    group = Group("")
    for line in lines:
        section, setting = _SECTION.fullmatch(line), _SETTING.fullmatch(line)
        if section or not line.strip():
            if group.settings:
                yield group
            group = Group(section["title"] if section else group.title)
        elif setting:
            group.settings[setting["name"]] = setting["value"]
        else:
            group.text.append(line.removeprefix("#").strip())
    if group.settings:
        yield group


def page() -> str:
    found = list(groups((SERVICE / ".env.example").read_text(encoding="utf-8").splitlines()))
    _check_complete(found)
    blocks = [HEAD, PRESETS_HEAD + "\n" + _presets()]
    title = ""
    for group in found:
        heading = f"## {group.title}\n\n" if group.title != title else ""
        title = group.title
        text = _FILLED.fill(_NAMED.sub(_as_code, " ".join(group.text)))
        rows = [_row(name, value) for name, value in group.settings.items()]
        table = "\n".join(["| setting | default | what it may be |", "|---|---|---|", *rows])
        blocks.append(f"{heading}{text}\n\n{table}\n" if text else f"{heading}{table}\n")
    return "\n".join(blocks)


def _check_complete(found: list[Group]) -> None:
    told = [name for group in found for name in group.settings]
    known = {name.upper() for name in Settings.model_fields} - {"SERVICE_NAME", "DESCRIPTION"}
    for name in sorted(known ^ {*told}):
        where = ".env.example" if name in known else "jetstream_bridge/service/settings.py"
        raise DocumentationError(f"{name} is missing in {where}")
    if len(told) != len({*told}):
        raise DocumentationError("a setting is there twice in .env.example")


def _as_code(match: re.Match[str]) -> str:
    known = match["name"].lower() in Settings.model_fields
    return f"`{match[0]}`" if known else match[0]


def _row(name: str, written: str) -> str:
    info = Settings.model_fields[name.lower()]
    rule = info.description or "a text"
    if "SecretStr" in str(info.annotation):
        rule += "; a secret"
    return f"| `{name}` | {_default(name, info, written)} | {rule.replace('|', 'or')} |"


def _default(name: str, info: FieldInfo, written: str) -> str:
    if info.is_required() or _FROM_THE_GENERATOR.fullmatch(written):
        return "from the generator"
    if _read(info.default, written) != info.default:
        raise DocumentationError(
            f"{name} is {written!r} in .env.example, and its default is {info.default!r}"
        )
    return f"`{written}`" if written else "not set"


def _read(default: object, written: str) -> object:
    """Return `written` as a setting with that default would be read."""
    match default:
        case bool():
            return written == "true"
        case int():
            return int(written)
        case float():
            return seconds(written)
        case tuple():
            return tuple(seconds(part) for part in written.split(","))
    return written or None


def _presets() -> str:
    names = sorted({name for preset in PRESETS.values() for name in preset})
    names.sort(key=list(Settings.model_fields).index)
    lines = [
        "| | " + " | ".join(f"`{name.upper()}`" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for preset, values in PRESETS.items():
        shown = " | ".join(f"`{_shown(values[name])}`" for name in names)
        lines.append(f"| `{preset}` | {shown} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(humanize(part) for part in value)
    return humanize(value) if isinstance(value, float) else str(value).lower()


def main() -> None:
    try:
        text = page()
    except DocumentationError as error:
        sys.exit(str(error))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what the code says: run `make docs`")


if __name__ == "__main__":
    main()
