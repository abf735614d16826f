"""Words of the command line that stand for values."""

from __future__ import annotations

import click

MOST_DIGITS = 18
"""Of a picture's number; longer ones would not fit into 64 bits."""


class Crop(click.ParamType):
    """A share, or two with an x between them."""

    name = "share"

    def convert(
        self, value: str | float | tuple[float, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> float | tuple[float, float]:
        """The share, or those of height and width."""
        if not isinstance(value, str):
            return value
        try:
            shares = [float(part) for part in value.split("x")]
        except ValueError:
            shares = []
        if not (1 <= len(shares) <= 2 and all(0.1 <= share <= 1 for share in shares)):
            self.fail(f"{value!r} is not a share from 0.1 to 1, like 0.8, or two, like 1x0.75", param, ctx)
        return shares[0] if len(shares) == 1 else (shares[0], shares[1])


class Numbers(click.ParamType):
    """A range of numbers, both ends included."""

    name = "from-to"

    def convert(self, value: str | range, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """The numbers as a range."""
        if isinstance(value, range):
            return value
        first, dash, last = value.partition("-")
        last = last if dash else first
        ends = [int(n) for n in (first, last) if n.isdecimal() and len(n) <= MOST_DIGITS]
        if len(ends) < 2 or ends[0] > ends[1]:
            shown = value if len(value) < 100 else f"{value[:97]}..."
            self.fail(f"{shown!r} is not a number or a range of numbers, like 17 or 0-999", param, ctx)
        return range(ends[0], ends[1] + 1)


class NumberList(click.ParamType):
    """Numbers between commas."""

    name = "numbers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers as a tuple."""
        try:
            return value if isinstance(value, tuple) else tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers between commas, like 4,64,64", param, ctx)
