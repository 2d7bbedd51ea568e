"""Names on the wire and NATS' own rules for them.

Every name that leaves the bridge is made here from checked parts, so that no value can add a
token, a wildcard or a line to a subject. `*` stands for exactly one token, `>` for one or more
at the end; nothing here treats them otherwise.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from jetstream_bridge.core.errors import InvalidSubjectError

DEAD_LETTER_TOKEN = "dlq"

_MAX_COMPONENT = 255  # characters
_MAX_NAME = 255  # characters; nats-server's limit for stream and consumer names
# Bytes; what the tables hold. A protocol line of 4096, reply subject and sizes included, makes the
# server close the connection for good.
_MAX_SUBJECT = 1024
_WILDCARDS = frozenset("*>")


def validate_component(name: str, value: str) -> str:
    """Return `value` if it may stand as one part of a subject; `name` says what it is."""
    rule = f"write 1 to {_MAX_COMPONENT} characters without '.', '*', '>', space or control ones"
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_COMPONENT:
        raise InvalidSubjectError(f"{name} {_shown(value)} has no usable length; {rule}")
    for character in value:
        if character == "." or character in _WILDCARDS or _is_unprintable(character):
            raise InvalidSubjectError(f"{name} {_shown(value)} contains {character!r}; {rule}")
    return value


def validate_app(name: str, value: str) -> str:
    """Return `value` if it may name an application; `dlq` may not."""
    validate_component(name, value)
    if value == DEAD_LETTER_TOKEN:
        raise InvalidSubjectError(
            f"{name} {value!r} would make the dead-letter subject an ordinary one; choose another"
        )
    return value


def validate_subject(subject: str) -> str:
    """Return `subject` if a message may be published on it."""
    if not isinstance(subject, str) or not subject:
        raise InvalidSubjectError(f"subject {_shown(subject)} is empty; write tokens with dots")
    for character in subject:
        if _is_unprintable(character):
            raise InvalidSubjectError(
                f"subject {_shown(subject)} contains {character!r}; "
                "remove spaces and control characters"
            )
    if len(subject.encode()) > _MAX_SUBJECT:
        raise InvalidSubjectError(
            f"subject {_shown(subject)} is {len(subject.encode())} bytes long; "
            f"keep it within {_MAX_SUBJECT}"
        )
    for token in subject.split("."):
        if not token:
            raise InvalidSubjectError(
                f"subject {_shown(subject)} has an empty token; write one dot between two tokens"
            )
        if _WILDCARDS & set(token):
            raise InvalidSubjectError(
                f"subject {_shown(subject)} contains a wildcard; events go to one literal subject"
            )
    return subject


def matches(pattern: str, subject: str) -> bool:
    """Say whether `pattern` takes in all of `subject`, which may itself be a pattern.

    A wildcard in `subject` is taken in by an equal or a wider one only: `a.*` does not match `a.>`.
    """
    wanted = subject.split(".")
    tokens = pattern.split(".")
    for index, token in enumerate(tokens):
        if index == len(wanted):
            return False
        if token == ">":
            return True
        if wanted[index] == ">" or token not in ("*", wanted[index]):
            return False
    return len(tokens) == len(wanted)


def overlaps(left: str, right: str) -> bool:
    """Say whether some subject matches both patterns."""
    ours, theirs = left.split("."), right.split(".")
    for our, their in zip(ours, theirs, strict=False):
        if our == ">" or their == ">":
            return True
        if our != their and our != "*" and their != "*":
            return False
    return len(ours) == len(theirs)


def covered(patterns: Iterable[str], subject: str) -> bool:
    """Say whether one of `patterns` takes in all of `subject`."""
    return any(matches(pattern, subject) for pattern in patterns)


@dataclass(frozen=True)
class AppNames:
    """The names of one application in one environment."""

    env: str
    app: str

    def __post_init__(self) -> None:
        validate_component("NATS_ENV", self.env)
        validate_app("APP_NAME", self.app)

    def stream(self, override: str | None = None) -> str:
        if override is not None:
            return _validate_name("NATS_STREAM", override)
        return _validate_name("stream name", f"{self.env}-jetstream-bridge-stream")

    def publish(self, destination: str) -> str:
        if not isinstance(destination, str):
            validate_app("destination", destination)  # says what is wrong with it
        return _published(self, destination)

    def subscribe(self, source: str) -> str:
        validate_app("source", source)
        return validate_subject(f"{self.env}.{source}.sync.{self.app}")

    @property
    def dead_letter(self) -> str:
        return validate_subject(f"{self.env}.{self.app}.sync.{DEAD_LETTER_TOKEN}")

    def durable(self, source: str | None = None) -> str:
        """The durable consumer for `source`; without one, that for the default destination."""
        workers = f"{self.env}-{self.app}-workers"
        if source is None:
            return _validate_name("consumer name", workers)
        validate_app("source", source)
        return _validate_name("consumer name", f"{workers}-{source}")

    @property
    def dead_letter_durable(self) -> str:
        """The durable for this service's own dead letters; no source can be called so."""
        name = f"{self.env}-{self.app}-workers-{DEAD_LETTER_TOKEN}"
        return _validate_name("consumer name", name)


@functools.lru_cache(maxsize=256)  # each event asks, and the rules look at every letter
def _published(names: AppNames, destination: str) -> str:
    validate_app("destination", destination)
    return validate_subject(f"{names.env}.{names.app}.sync.{destination}")


def validate_durable(value: str) -> str:
    """Return `value` if a durable consumer may be called so."""
    return _validate_name("durable", value)


def _validate_name(name: str, value: str) -> str:
    """Return `value` if a stream or consumer may be called so."""
    if not value or len(value) > _MAX_NAME:
        raise InvalidSubjectError(
            f"{name} {_shown(value)} has {len(value)} characters; keep it within 1 to {_MAX_NAME}"
        )
    for character in value:
        if character in "./\\" or character in _WILDCARDS or _is_unprintable(character):
            raise InvalidSubjectError(
                f"{name} {_shown(value)} contains {character!r}; "
                "NATS refuses '.', '*', '>', '/', '\\', spaces and control characters in it"
            )
    return value


def _is_unprintable(character: str) -> bool:
    """Space of any kind, a control character, or half of a surrogate pair."""
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cs")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text) - 2} characters)"
