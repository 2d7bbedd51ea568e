"""Whatever is chosen, the service is whole: it parses, and nothing of the template is left."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values
from post_gen_project import CACHES, PARTS, is_chosen

from jetstream_bridge.cli.example_files import FILES, MIGRATION, MODELS, NO_MODELS
from tests.template.baking import ROOT, TEMPLATE, bake, run_generator
from tests.template.rows import ROWS, Answers
from tests.template.test_generator_filter import NASTY_TEXTS

# What a command line can carry: it has no way to write a NUL.
SPOKEN_TEXTS = [text.replace("\x00", "") for text in NASTY_TEXTS if text]
MARKER = re.compile(r"<<-?\s*\(?cookiecutter|\bcookiecutter\.(?!yaml\b)|# ?<%|# ?<#|%>|#>")


def files(service: Path) -> Iterator[Path]:
    for path in sorted(service.rglob("*")):
        if path.is_file() and ".git" not in path.relative_to(service).parts:
            yield path


def source_of(service: Path, name: str) -> bytes:
    """What the template has at `name` for the service."""
    answers = yaml.safe_load((service / ".cookiecutter.yaml").read_text(encoding="utf-8"))
    if name == MODELS and answers["default_context"]["include_example"] == "false":
        return NO_MODELS.encode()
    return (TEMPLATE / name).read_bytes()


def expected(answers: Answers) -> set[str]:
    """The Python files that a service should have."""
    left_out = {
        path for question, wanted, path in PARTS if not is_chosen(answers[question], wanted)
    }
    if not answers["include_example"]:
        left_out |= {*FILES, MIGRATION}

    def names(root: Path) -> set[str]:
        found = (path.relative_to(root) for path in root.rglob("*.py"))
        return {str(path) for path in found if not CACHES & {*path.parts}}

    own = {name for name in names(TEMPLATE) if not name.startswith("_")}
    own -= {name for name in own for path in left_out if Path(name).is_relative_to(path)}
    return own


def texts(service: Path) -> list[Path]:
    """All files but images."""
    return [path for path in files(service) if path.suffix != ".png"]


def check(service: Path, answers: Answers) -> None:
    for path in texts(service):
        text = path.read_text(encoding="utf-8")
        parse(path, text)
        assert text.endswith("\n") or not text, path
    check_identity(service, answers)
    check_python(service, answers)
    check_assets(service, answers)
    check_parts(service, answers)


def parse(path: Path, text: str) -> None:
    match path.suffix:
        case ".toml":
            tomllib.loads(text)
        case ".yaml" | ".yml":
            assert all(yaml.safe_load_all(text)), path
        case ".json":
            json.loads(text)
        case ".ini":
            configparser.ConfigParser().read_string(text)


def check_identity(service: Path, answers: Answers) -> None:
    identity = tomllib.loads((service / "app/service.toml").read_text(encoding="utf-8"))
    given = ("service_name", "description")
    assert {name: identity[name] for name in given} == {name: answers[name] for name in given}
    assert identity["app_name"] == service.name
    kept = yaml.safe_load((service / ".cookiecutter.yaml").read_text(encoding="utf-8"))
    assert kept["default_context"] == {
        name: str(answer).lower() if isinstance(answer, bool) else answer
        for name, answer in answers.items()
    }
    values = dotenv_values(service / ".env")
    assert values == {"DATABASE_URL": identity["database_url"], "NATS_URLS": ""}
    assert identity["database_url"].startswith(str(answers["database"]))
    assert "\n# " in f"\n{(service / 'README.md').read_text(encoding='utf-8')}"


def check_python(service: Path, answers: Answers) -> None:
    found = {str(path.relative_to(service)) for path in files(service) if path.suffix == ".py"}
    assert found == expected(answers)
    for name in found:
        assert (service / name).read_bytes() == source_of(service, name), name


def check_assets(service: Path, answers: Answers) -> None:
    """Pages, styles and scripts have braces of their own: nobody renders them."""
    kinds = {".html", ".css", ".js", ".svg"}
    found = [path for path in files(service) if path.suffix in kinds]
    assert {path.suffix for path in found} == (kinds if answers["bridge"] == "vendored" else set())
    for path in found:
        name = str(path.relative_to(service))
        assert path.read_bytes() == source_of(service, name), name


def check_parts(service: Path, answers: Answers) -> None:
    assert (service / "LICENSE").is_file()
    for question, wanted, name in PARTS:
        chosen = is_chosen(answers[question], wanted) and not name.startswith("_")
        assert (service / name).exists() == chosen, name
    for path in service.rglob("*"):
        assert not path.name.startswith("_") or path.name.startswith("__"), path
        assert path.name not in CACHES


def full(row: Answers, **texts: str) -> Answers:
    answers: Answers = {
        "service_name": "Orders Service",
        "service_slug": "orders-service",
        "description": "It takes orders.",
        "author": "",
        "destination_app": "peer-service",
    }
    return answers | row | texts


def test_the_rows_are_few_and_have_every_pair() -> None:
    assert 9 <= len(ROWS) <= 14


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: "-".join(str(value) for value in row.values())
)
def test_every_two_choices_make_a_whole_service(row: Answers, tmp_path: Path) -> None:
    answers = full(row)
    service = bake(tmp_path / "out", **answers)
    check(service, answers)
    for path in texts(service):
        assert not MARKER.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("number", range(len(SPOKEN_TEXTS)))
def test_free_text_is_text_everywhere(number: int, tmp_path: Path) -> None:
    text = SPOKEN_TEXTS[number]
    answers = full(ROWS[number % len(ROWS)], description=text, author=text)
    if text.isprintable():
        answers["service_name"] = text[:80]
    service = bake(tmp_path / "out", **answers)
    check(service, answers)


def test_the_prompt_takes_free_text_as_text(tmp_path: Path) -> None:
    typed = ["Ördérs << 1+1 >>", "", '{{ 2+2 }} "quoted" \\', "# <% if %>", "", "sqlite"]
    done = run_generator(
        tmp_path / "out", stdin="\n".join([*typed, "n", "none", "none", "Proprietary", "", ""])
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row: Answers = {
        "service_name": typed[0],
        "service_slug": "orders-1-1",
        "description": typed[2],
        "author": typed[3],
        "destination_app": "peer-service",
        "database": "sqlite",
        "include_example": False,
        "deployment": "none",
        "ci": "none",
        "license": "Proprietary",
        "bridge": "vendored",
    }
    check(tmp_path / "out/orders-1-1", row)


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out/orders-service").mkdir(parents=True)
    done = run_generator(tmp_path / "out")
    assert done.returncode == 1
    assert "already exists" in done.stdout
    assert list((tmp_path / "out/orders-service").iterdir()) == []


def test_a_service_is_baked_over_itself_from_its_answers_file(tmp_path: Path) -> None:
    answers = full(ROWS[0], description=SPOKEN_TEXTS[3], author=SPOKEN_TEXTS[1])
    service = bake(tmp_path / "out", **answers)
    before = {path: path.read_bytes() for path in files(service)}
    (service / ".env").write_text("ADMIN_TOKEN=secret\n", encoding="utf-8")
    (service / "app/own.py").write_text('"""The team\'s own."""\n', encoding="utf-8")
    (service / "Makefile").unlink()
    head = (service / ".git/HEAD").stat().st_ino

    file = str(service / ".cookiecutter.yaml")
    assert bake(tmp_path / "out", "--overwrite-if-exists", "--config-file", file) == service

    after = {path: path.read_bytes() for path in files(service)}
    assert after.pop(service / ".env") == b"ADMIN_TOKEN=secret\n"
    assert after.pop(service / "app/own.py")
    del before[service / ".env"]
    assert after == before
    assert (service / ".git/HEAD").stat().st_ino == head


def test_a_service_baked_inside_a_repository_gets_none_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "out/.git").mkdir(parents=True)
    done = run_generator(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out/orders-service/.git").exists()


def test_the_command_prints_four_lines_and_nothing_else(tmp_path: Path) -> None:
    done = run_generator(tmp_path / "out")
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == ""


def test_the_terminals_encoding_does_not_matter(tmp_path: Path) -> None:
    answers = full(ROWS[0], service_name="Café 🚀")
    file = tmp_path / "answers.yaml"
    file.write_text(yaml.safe_dump({"default_context": answers}), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_generator(tmp_path / "öut", "--config-file", str(file), environment=ascii_only)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "öut/orders-service", answers)


def test_cruft_finds_its_folder_and_cookiecutter_the_template() -> None:
    folders = {
        path.name for path in ROOT.iterdir() if "cookiecutter." in path.name and path.is_dir()
    }
    assert folders == {"<<cookiecutter.service_slug>>", "{{cookiecutter.service_slug}}"}
