"""A row of a report: the fields of a verdict, and what it was made with."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

from watermark.verdict import INCONCLUSIVE, NOT_DETECTED, UNREADABLE, WATERMARKED, Verdict

Row = dict[str, Any]

COLUMNS = (*(field.name for field in fields(Verdict)), "configuration")
NUMBERS = ("p_value", "rho", "fpr", "fpr_bound", "correlation", "number_p_value")
COUNTS = ("keys_tried", "transforms_tried", "null_hits", "null_images", "number")
LISTS = ("other_keys", "warnings")
CAN_BE_NONE = {"key", *NUMBERS, *COUNTS} - {"keys_tried", "transforms_tried"}
STATUSES = (WATERMARKED, NOT_DETECTED, INCONCLUSIVE, UNREADABLE)
NAME = re.compile(rb'\{"name": "(?:[^"\\]|\\.)*"')
BEGINNING = b'{"name": "'
SECOND = b', "status": "'


def no_row(value: Any) -> bool:  # noqa: ANN401 - whatever a line of JSON holds
    """Whether something is not a row."""
    return not (
        isinstance(value, dict)
        and value.keys() == set(COLUMNS)
        and all(fits(name, value[name]) for name in COLUMNS)
        and value["status"] in STATUSES
        and re.fullmatch("([0-9a-f]{64})?", value["sha256"])
        and re.fullmatch("[0-9a-f]{40}", value["configuration"])
    )


def fits(name: str, value: Any) -> bool:  # noqa: ANN401
    """Whether a value is one of a column."""
    if value is None:
        return name in CAN_BE_NONE
    if name in NUMBERS:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if name in COUNTS:
        return isinstance(value, int) and not isinstance(value, bool)
    if name in LISTS:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def torn(line: bytes) -> bool:
    """Whether a line without an end is a row that was written in part; or zeros, where the machine stopped."""
    whole = NAME.match(line)
    if whole is None:
        return line.startswith(BEGINNING) or BEGINNING.startswith(line) or not line.strip(b"\0")
    rest = line[whole.end() :]
    return rest.startswith(SECOND) or SECOND.startswith(rest)
