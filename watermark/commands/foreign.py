"""The commands under ``treering key foreign``: keys of other code as files for ``verify --foreign-key``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from watermark.commands.errors import understood
from watermark.commands.parameters import NumberList

if TYPE_CHECKING:
    from watermark.foreign import ArrayKey

shape_option = click.option(
    "--shape",
    type=NumberList(),
    default="4,64,64",
    show_default=True,
    help="Channels, height and width of the latents.",
)
output_option = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write."
)


@click.group()
def foreign() -> None:
    """Write keys of other code to files, to verify pictures that it marked.

    The rings and random values of tree-ring code are drawn at random, so that their p-value holds for any image, as
    that of our keys does. That of others holds for white noise only, so that verify needs null images for a
    verdict, see treering calibrate.

    \b
    treering key foreign tree-ring --seed 999999 -o theirs.safetensors
    treering key foreign constant-rings --number 0 -o rings.safetensors
    treering key foreign array values.npy mask.npy -o theirs.safetensors
    """


@foreign.command("tree-ring")
@click.option(
    "--seed",
    type=click.IntRange(-(2**63), 2**63 - 1),
    default=999999,
    show_default=True,
    help="w_seed of that code.",
)
@click.option("--pattern", type=click.Choice(["ring", "rand", "zeros", "const"]), default="ring", show_default=True)
@click.option("--channel", type=int, default=3, show_default=True, help="w_channel; -1 is all.")
@click.option("--radius", type=click.IntRange(1), default=10, show_default=True, help="w_radius.")
@click.option("--constant", type=float, default=0.0, show_default=True, help="w_pattern_const.")
@shape_option
@output_option
def tree_ring(
    seed: int, pattern: str, channel: int, radius: int, constant: float, shape: tuple[int, ...], output: Path
) -> None:
    """The key that the code of Wen et al. 2023 makes from a seed on the CPU.

    \b
    treering key foreign tree-ring --seed 999999 -o theirs.safetensors
    treering key foreign tree-ring --pattern rand --channel 3 --radius 10 --shape 4,64,64 -o rand.safetensors
    """
    from watermark.published_keys import tree_ring_key

    with understood():
        key = tree_ring_key(seed, three(shape), pattern=pattern, channel=channel, radius=radius, constant=constant)
        write(key, output)


@foreign.command("constant-rings")
@click.option("--number", type=click.IntRange(0, 3), default=0, show_default=True, help="Which of the four.")
@click.option("--channel", type=click.IntRange(0), default=0, show_default=True, help="The marked channel.")
@click.option("--radius", type=click.IntRange(1, 6), default=6, show_default=True, help="The outermost ring.")
@click.option("--level", type=float, default=80.0, show_default=True, help="Of a ring of relative height 1.")
@shape_option
@output_option
def constant_rings(
    number: int, channel: int, radius: int, level: float, shape: tuple[int, ...], output: Path
) -> None:
    """A key of constant rings of Hong et al. 2024.

    \b
    treering key foreign constant-rings --number 0 -o rings.safetensors
    """
    from watermark.published_keys import constant_ring_key

    with understood():
        write(constant_ring_key(number, three(shape), channel=channel, radius=radius, level=level), output)


@foreign.command()
@click.argument("values", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("mask", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
def array(values: Path, mask: Path | None, output: Path) -> None:
    """Arrays in files: complex values and a mask, both centred, (C, H, W) or (1, C, H, W).

    Two .npy files, or one .safetensors file that holds "values" and "mask". Verify needs null images for such a
    key, unless the file holds "draws", too: for every bin the number of the complex Gaussian value drawn for it.

    \b
    treering key foreign array values.npy mask.npy -o theirs.safetensors
    """
    from watermark.foreign import read_array_key

    with understood():
        write(read_array_key(values, mask=mask), output)


def three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A shape of three numbers. Raises ValueError if there are others."""
    if len(shape) != 3:
        raise ValueError(f"--shape must be channels,height,width, got {','.join(map(str, shape))}")
    return shape[0], shape[1], shape[2]


def write(key: ArrayKey, output: Path) -> None:
    """Write a key to a new file and say what it is."""
    key.save(output)
    marked = int(key.mask.sum())
    click.echo(f"wrote {output}: {marked} marked bins of latents {' × '.join(map(str, key.values.shape))}")
