"""Options that say which transformations of a picture are undone when it is tested."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.errors import Trouble
from watermark.commands.parameters import Crop

if TYPE_CHECKING:
    from watermark.transforms import Transform

MOST_TRANSFORMS = 100_000

LookedAt = Callable[[tuple[int, ...]], "tuple[Transform, ...]"]
"""Shape of latents (C, h, w) → the transformations that are undone."""

OPTIONS = (
    click.option(
        "--rotations",
        type=click.IntRange(1),
        help="Look at so many angles, evenly spaced.  [default: 4; 2 if latents are not square]",
    ),
    click.option(
        "--mirrored/--no-mirrored", default=True, show_default=True, help="Look at the mirror image, too."
    ),
    click.option("--shifts", type=click.IntRange(0), default=0, help="Look at shifts up to so many latent pixels."),
    click.option(
        "--crop",
        "crops",
        type=Crop(),
        multiple=True,
        help="Undo a crop to this share of both sides (0.8), or of height and width (1x0.75); may be repeated.",
    ),
    click.option(
        "--wide",
        is_flag=True,
        help="Look at all angles and at crops to 0.7 or more, anywhere. That is 600 places for latents of 32 × 32 "
        "and 16,000 for 128 × 128, with seconds an image, null images too.",
    ),
)


def transform_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that the command gets as ``looked_at``, :data:`LookedAt`.

    What does not go together is refused before anything is loaded.
    """

    @wraps(command)
    def with_transforms(
        *args: Any,  # noqa: ANN401 - the command's own
        rotations: int | None,
        mirrored: bool,
        shifts: int,
        crops: tuple[float | tuple[float, float], ...],
        wide: bool,
        **others: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if wide and (rotations or shifts or crops or not mirrored):
            raise click.UsageError(
                "--wide looks in places of its own: give no --rotations, --shifts, --crop or --no-mirrored"
            )
        return command(*args, looked_at=partial(looked_at, wide, rotations, mirrored, shifts, crops), **others)

    for option in reversed(OPTIONS):
        option(with_transforms)
    return with_transforms


def looked_at(
    wide: bool,
    rotations: int | None,
    mirrored: bool,
    shifts: int,
    crops: tuple[float | tuple[float, float], ...],
    shape: tuple[int, ...],
) -> tuple[Transform, ...]:
    """The transformations that the options ask for, for latents (C, h, w)."""
    from watermark.transforms import right_angles, transforms_of, wide_transforms

    if wide:
        return wide_transforms(shape)
    angles = rotations or right_angles(shape)
    count = angles * (1 + mirrored) * (2 * shifts + 1) ** 2 * (1 + len(set(crops)))
    if count > MOST_TRANSFORMS:
        raise Trouble(f"that is {count:,} transformations, more than {MOST_TRANSFORMS:,}")
    return transforms_of(angles, mirrored, shifts, crops)
