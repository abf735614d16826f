"""What a store and a key file keep with a secret, and what they demand of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from watermark.keys import Pattern

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TEXT_LIMIT = 10_000  # characters of a label, and of a model


class KeyStoreError(Exception):
    """The store or a key file cannot be used, or does not have what was asked for; the message says why."""


@dataclass(frozen=True)
class Entry:
    """What may be shown of a key.

    Attributes:
        name: what the store calls it.
        id: its public id.
        created: when it was made, in UTC, ISO 8601.
        label: a note.
        model: the model that it is meant for; empty for any.
        revoked: since when nothing new may be marked with it, like ``created``; None if it is in use.
        pattern: what it writes.
    """

    name: str
    id: str
    created: str
    label: str = ""
    model: str = ""
    revoked: str | None = None
    pattern: Pattern = field(default_factory=Pattern)

    def check(self) -> None:
        """Raise KeyStoreError if a store must not take this."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise KeyStoreError(
                f"{self.name!r} is not a valid key name: up to 64 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit"
            )
        for what, text in (("label", self.label), ("model", self.model)):
            if not isinstance(text, str) or len(text) > TEXT_LIMIT or any("\ud800" <= c <= "\udfff" for c in text):
                raise KeyStoreError(f"the {what} must be text of at most {TEXT_LIMIT:,} characters")
        for what, time in (("created", self.created), ("revoked", self.revoked)):
            if not (is_utc(time) or (what == "revoked" and time is None)):
                raise KeyStoreError(f"{what} must be a time in UTC, ISO 8601 with +00:00")


def now() -> str:
    """The time in UTC, as stores write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_utc(time: object) -> bool:
    """Whether something is a time in UTC, spelled as Python spells it."""
    try:
        return isinstance(time, str) and time.endswith("+00:00") and bool(datetime.fromisoformat(time))
    except ValueError:
        return False


def pattern_of(fields: Any) -> Pattern:  # noqa: ANN401 - anything that JSON can hold
    """The pattern of ``asdict(pattern)``, after JSON or not. Raises TypeError or ValueError if it is not one."""
    if not isinstance(fields, dict) or set(fields) != {"kind", "channels", "inner", "outer"}:
        raise ValueError("not the fields of a pattern")
    channels = None if fields["channels"] is None else tuple(fields["channels"])
    numbers = (*(channels or ()), fields["inner"], *([] if fields["outer"] is None else [fields["outer"]]))
    if not all(type(number) is int for number in numbers):
        raise TypeError("a pattern has whole numbers")
    return Pattern(fields["kind"], channels, fields["inner"], fields["outer"])
