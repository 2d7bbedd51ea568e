"""Bad answers end the run with one line; good ones arrive as they were given."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from local_extensions import CHOICES, checked, in_markdown, in_quotes, one_line, questions
from tests.template.baking import run_generator

NASTY_TEXTS = [
    "",
    'He said "go"',
    "it's a \\ back\\slash \\n \\u0041 at the end \\",
    "{braces} {{ 7 * 6 }} {% if %} ${SHELL} $(id) `id`",
    "<< 7 * 6 >> # <% if x %> # <# note #>",
    "Ünïcödé, 日本語, עברית",
    "emoji 🚀 👩\u200d💻 🏴\U000e0067\U000e0062\U000e007f",
    "two\nlines\r\nand\ta tab",
    "control \x00\x01\x1b[31m\x7f\x85\x9f\u2028\u2029\ufeff\uffff",
    "'''\"\"\" # not a comment, !tag &anchor *alias %directive",
    "<script>alert(1)</script> & </b>",
]


def answers(**changes: object) -> dict[str, object]:
    given: dict[str, object] = {
        "service_name": "Orders Service",
        "service_slug": "orders-service",
        "description": "",
        "author": "",
        "destination_app": "peer-service",
        "database": "sqlite",
        "include_example": True,
        "deployment": "none",
        "ci": "gitlab",
        "license": "MIT",
        "bridge": "vendored",
    }
    return given | changes


@pytest.mark.parametrize(
    "change",
    [
        {"service_name": "Ördérs 🚀 👩\u200d💻"},
        {"service_name": "x" * 80},
        {"service_slug": "a"},
        {"service_slug": "a" * 40},
        {"service_slug": "a1-2b-c3"},
        {"service_slug": "billing_api"},
        {"destination_app": "billing_api-2"},
        *({"include_example": value} for value in [True, False, "true", "No", "y"]),
        {"destination_app": "dlq-service"},
        *({"description": text} for text in NASTY_TEXTS),
    ],
)
def test_a_good_answer_passes(change: dict[str, object]) -> None:
    given = answers(**change)
    assert checked(given) is given


@pytest.mark.parametrize(
    ("question", "value"),
    [
        *(("service_name", value) for value in ["", " ", "x" * 81, "a\nb", "a\x00b", "\ud800", 7]),
        *(
            (question, value)
            for question in ["service_slug", "destination_app"]
            for value in [
                *[
                    "",
                    "Orders",
                    "1st",
                    "a--b",
                    "-a",
                    "a-",
                    "a__b",
                    "a-_b",
                    "_a",
                    "a_",
                    "a.b",
                    "a b",
                    "a*",
                    "a>",
                    "é",
                ],
                *["dlq", "app", "a" * 41, "orders\n", "../up", "a/b", "<<x>>", None],
            ]
        ),
        ("destination_app", "orders-service"),
        ("description", "\ud83d alone"),
        ("author", None),
        ("database", "mysql"),
        ("include_example", "maybe"),
        ("include_example", None),
        ("deployment", ""),
        ("ci", "GitHub"),
        ("license", "mit"),
        ("bridge", "wheel"),
    ],
)
def test_a_bad_answer_is_refused_by_name_value_and_rule(
    question: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        checked(answers(**{question: value}))
    message = str(refusal.value)
    assert message.startswith(f"{question}: {value!r}"[:100])
    assert "; " in message
    assert message.isprintable()


def test_only_the_questions_answered_so_far_are_checked() -> None:
    given = {"service_name": "Orders Service"}
    assert checked(given) is given


@pytest.mark.parametrize("text", NASTY_TEXTS)
def test_a_quoted_text_means_the_same_in_toml_json_and_yaml(text: str) -> None:
    quoted = f'"{in_quotes(text)}"'
    assert "\n" not in quoted
    assert tomllib.loads(f"key = {quoted}")["key"] == text
    assert json.loads(quoted) == text
    assert yaml.safe_load(f"key: {quoted}")["key"] == text


@pytest.mark.parametrize("text", NASTY_TEXTS)
def test_one_line_is_one_line_of_printable_text(text: str) -> None:
    line = one_line(text)
    assert line.splitlines() in ([line], [])
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in line)


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("A plain sentence (with an aside), 3.5 times - so what?", None),
        ("# no heading", "\\# no heading"),
        ("- no item", "\\- no item"),
        ("1. no item", "1\\. no item"),
        ("a *b* _c_ `d` [e](f)", "a \\*b\\* \\_c\\_ \\`d\\` \\[e\\](f)"),
        ("<b> & |", "\\<b\\> \\& \\|"),
        ("two\n\nparagraphs", "two paragraphs"),
    ],
)
def test_markdown_shows_the_text_and_acts_on_none_of_it(text: str, markdown: str | None) -> None:
    assert in_markdown(text) == (markdown or text)


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("service_name", "a\nb"),
        ("service_slug", "Bad"),
        ("service_slug", "dlq"),
        ("service_slug", "<< 'x' * 50 >>"),
        ("destination_app", "orders-service"),
        ("author", "\udcff"),
        ("database", "oracle"),
        ("include_example", "maybe"),
        ("deployment", "k8s"),
        ("ci", "GitHub"),
        ("license", "mit"),
    ],
)
def test_the_command_refuses_with_one_line_and_writes_nothing(
    tmp_path: Path, question: str, value: str
) -> None:
    done = run_generator(tmp_path / "out", answers={question: value})
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"{question}: {value!r} is refused; ")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_service_does_not_depend_on_a_package_of_its_own_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for slug in ("jetstream-bridge", "jetstream_bridge"):
        checked(answers(service_slug=slug))
        with pytest.raises(SystemExit) as refusal:
            checked(answers(service_slug=slug, bridge="installed"))
        assert "bridge: 'installed' is refused; choose vendored" in str(refusal.value)


def test_a_bad_answer_at_the_prompt_ends_the_questions(tmp_path: Path) -> None:
    done = run_generator(tmp_path / "out", stdin="Orders Service\nBad Slug\n\n\n\n")
    assert done.returncode == 1
    assert done.stderr.startswith("service_slug: 'Bad Slug' is refused; ")
    assert done.stderr.count("\n") == 1
    assert "[6/11]" not in done.stdout
    assert list((tmp_path / "out").iterdir()) == []


def test_an_answer_to_no_question_is_refused_too(tmp_path: Path) -> None:
    done = run_generator(tmp_path / "out", answers={"databse": "sqlite"})
    assert done.returncode == 1
    assert done.stderr.startswith("databse: there is no such question; the questions are service_")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_replayed_answers_are_checked_too(tmp_path: Path) -> None:
    good = run_generator(tmp_path / "good")
    assert good.returncode == 0, good.stderr
    replay = next((tmp_path / "good-home").glob(".cookiecutter_replay/*.json"))
    context = json.loads(replay.read_text(encoding="utf-8"))
    context["cookiecutter"]["service_slug"] = "../up"
    replay.write_text(json.dumps(context), encoding="utf-8")
    done = run_generator(tmp_path / "out", "--replay-file", str(replay), stdin="")
    assert done.returncode == 1
    assert done.stderr.startswith("service_slug: '../up' is refused; ")
    assert list((tmp_path / "out").iterdir()) == []


def test_every_question_has_a_prompt_for_people_that_names_its_choices() -> None:
    prompts = questions()["__prompts__"]
    assert isinstance(prompts, dict)
    for question in questions():
        if question.startswith("_"):
            continue
        assert all(word in prompts[question] for word in CHOICES.get(question, ()))
