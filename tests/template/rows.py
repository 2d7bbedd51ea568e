"""The answers that are baked: few rows, in which every two choices meet.

`python -m tests.template.rows` prints them for a pipeline's matrix, as words of a command line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import local_extensions

Answers = dict[str, str | bool]

CHOICES: dict[str, list[str | bool]] = {
    "include_example": [True, False],
    **{question: list(choices) for question, choices in local_extensions.CHOICES.items()},
}


def pairwise() -> Iterator[Answers]:
    """Rows in which every two choices of different questions meet at least once."""
    rows = [dict(zip(CHOICES, row, strict=True)) for row in itertools.product(*CHOICES.values())]
    missing = {pair for row in rows for pair in itertools.combinations(row.items(), 2)}
    while missing:
        best = max(rows, key=lambda row: len(missing & {*itertools.combinations(row.items(), 2)}))
        missing -= {*itertools.combinations(best.items(), 2)}
        yield best


ROWS = list(pairwise())


def as_words(row: Answers) -> str:
    """The answers as Cookiecutter takes them after its options; no choice has a space in it."""
    return " ".join(f"{question}={answer!s}" for question, answer in row.items())


if __name__ == "__main__":
    print(json.dumps([as_words(row) for row in ROWS]))
