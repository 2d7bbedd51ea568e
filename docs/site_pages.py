"""Pages of the site that are made from the code when it is built: `make docs`.

`reference/http.md` from the API's own OpenAPI document, `reference/errors.md` from the classes, the
list of decisions from their first lines, and the beginning from the README.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parent
SERVICE = DOCS.parent / "<<cookiecutter.service_slug>>"
METHODS = ("get", "post", "put", "patch", "delete")
# What a link in a page means that leads out of the documentation: a file of the repository.
OUTSIDE = "https://github.com/org/jetstream-service/blob/main/"
BADGE = re.compile(r"^\[!\[.*\n", re.MULTILINE)  # a picture from elsewhere
OTHER_FILE = re.compile(r"\]\(([A-Z]+\.md)\)")  # beside the README
FOREIGN = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?(?:https?:)?//[^\" >]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    sys.path.insert(0, str(SERVICE))
    pages = {
        "index.md": index(),
        "reference/http.md": "\n".join(http()),
        "reference/errors.md": "\n".join(errors()),
        "decisions/index.md": "\n".join(decisions()),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def index() -> str:
    """The beginning: what the README says, with links from here."""
    text = BADGE.sub("", (DOCS.parent / "README.md").read_text(encoding="utf-8"))
    return OTHER_FILE.sub(rf"]({OUTSIDE}\1)", text.replace("](docs/", "]("))


def http() -> Iterator[str]:
    yield "# HTTP"
    yield "\nEvery route of a service with the example, as `/openapi.json` has them. "
    yield "[The operators' API](../admin-api.md) explains those under `/admin`.\n"
    paths: dict[str, dict[str, Any]] = openapi()["paths"]
    for path, methods in sorted(paths.items()):
        for method in (name for name in METHODS if name in methods):
            yield from route(f"{method.upper()} {path}", methods[method])


def openapi() -> dict[str, Any]:
    os.environ.setdefault("APP_NAME", "orders")
    os.environ.setdefault("DESTINATION_APP", "billing")
    from app.main import create_app
    from app.settings import Settings
    from jetstream_bridge.service.settings_loading import read_settings

    url = "postgresql+asyncpg://nobody@localhost/none"
    document: dict[str, Any] = create_app(read_settings(Settings, database_url=url)).openapi()
    return document


def route(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## `{title}`\n"
    yield operation.get("description") or f"{operation['summary']}."
    parameters = operation.get("parameters", [])
    if parameters:
        yield "\n| parameter | in | type | needed |\n|---|---|---|---|"
    for one in parameters:
        needed = "yes" if one.get("required") else "no"
        yield f"| `{one['name']}` | {one['in']} | {kind(one['schema'])} | {needed} |"
    statuses = ", ".join(f"{status}" for status in sorted(operation["responses"]))
    yield f"\nAnswers with status {statuses}.\n"


def kind(schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    limits = [
        f"{word} {schema[name]}"
        for name, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"))
        if name in schema
    ]
    named = schema.get("type") or str(schema.get("$ref", "any")).rpartition("/")[2]
    return " ".join([named, *limits])


def errors() -> Iterator[str]:
    from jetstream_bridge.core import errors as module

    yield "# Errors"
    yield "\nWhat the package raises on purpose, all in `jetstream_bridge.core.errors`. "
    yield "A message quotes the bad value and says what to do.\n"
    for one in classes(module):
        base = one.__mro__[1].__name__
        yield f"## {one.__name__}\n"
        yield f"A `{base}`.\n" if issubclass(one.__mro__[1], module.BridgeError) else ""
        yield inspect.cleandoc(one.__doc__ or "") + "\n"


def classes(module: ModuleType) -> list[type[Exception]]:
    """The classes of a module, in the order in which they stand there."""
    found = [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Exception)
        and one.__module__ == module.__name__
    ]
    return sorted(found, key=lambda one: inspect.getsourcelines(one)[1])


def decisions() -> Iterator[str]:
    yield "# Decisions"
    yield "\nWhat was chosen, what was weighed, and what it costs.\n"
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        yield f"* [{title}]({path.name})"


def on_post_build(config: MkDocsConfig) -> None:
    """The site is read without a network: nothing in it is fetched from elsewhere."""
    foreign = sorted(
        f"{page.relative_to(config.site_dir)}: {found}"
        for page in Path(config.site_dir).rglob("*.html")
        for found in FOREIGN.findall(page.read_text(encoding="utf-8"))
    )
    if foreign:
        raise PluginError("fetched from elsewhere: " + "; ".join(foreign[:5]))
