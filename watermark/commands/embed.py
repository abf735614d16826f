"""The command ``treering embed``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from watermark.commands.errors import Trouble, understood
from watermark.commands.models import load_model
from watermark.commands.options import model_options, output_options, store_option
from watermark.commands.progress import progress_bar
from watermark.commands.records import write_records
from watermark.commands.stores import key_store, marking_key


@click.command()
@click.argument("prompts", nargs=-1, required=True)
@click.option("--key", "key_name", required=True, help="Key to mark with.")
@click.option(
    "-n", "--count", type=click.IntRange(1), default=1, show_default=True, help="Pictures for each prompt."
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the first picture, to make the same ones again. Who knows it, or tries all, learns the key from "
    "one of them.  [default: noise that nobody can repeat]",
)
@click.option(
    "--number",
    type=click.IntRange(0),
    help="Number of the first picture: its noise comes from the key alone, so that verify --numbers knows it.",
)
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Classifier-free guidance scale.")
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True, help="DDIM steps.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@store_option
@model_options
@output_options
def embed(
    prompts: tuple[str, ...],
    key_name: str,
    count: int,
    output: Path,
    seed: int | None,
    number: int | None,
    guidance: float,
    steps: int,
    batch_size: int,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> None:
    """Generate watermarked pictures.

    Files are named after the prompt and the seed or number, or counted on from the pictures in the folder.

    \b
    treering embed "a red apple on a blue background" --key alice
    treering embed "a tiger" "a strawberry" --key alice -n 4 -o out/ --seed 7
    treering embed "a tiger" --key alice -n 10 --number 100
    treering embed "a photo of a fox" --key alice --model stable-diffusion-v1-5/stable-diffusion-v1-5 --guidance 7.5
    """
    from watermark.generate import Saved, generate, save

    every = [prompt for prompt in prompts for _ in range(count)]
    if number is not None and seed is not None:
        raise click.UsageError("give --seed or --number, not both")
    first = seed if number is None else number
    with understood():
        ring_key = marking_key(key_store(store), key_name, model["model"])
        output.mkdir(parents=True, exist_ok=True)
        files = new_files(every, output, first)
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        made = generate(
            loaded,
            every,
            key=ring_key,
            seed=first,
            numbered=number is not None,
            guidance=guidance,
            steps=steps,
            batch_size=batch_size,
            progress=lambda done, total: track(f"generating {len(every)} pictures", done, total),
        )
        saved: list[Saved] = []
        try:
            for picture, file in zip(made, files, strict=True):
                try:
                    saved.append(save(picture, file))
                except FileExistsError:  # by now
                    if first is not None:
                        raise
                    saved.append(save(picture, *new_files([picture.prompt], output, None)))
        finally:  # nobody could say later what was made of which prompt
            if saved:
                write_records(saved, ["path", "prompt", *(["seed"] if first is not None else [])], form)


def new_files(prompts: list[str], folder: Path, first: int | None) -> list[Path]:
    """Where pictures are written: with numbers from the first one on, or from the highest one in the folder on."""
    from watermark.generate import file_name

    if first is None:
        numbers = (file.stem.rpartition("-")[2] for file in folder.glob("*-*.png"))
        first = 1 + max((int(n) for n in numbers if n.isdecimal() and len(n) < 19), default=0)
    files = [folder / file_name(prompt, first + i) for i, prompt in enumerate(prompts)]
    for file in files:
        if os.path.lexists(file):
            raise Trouble(f"{file} exists; choose another --seed, --number or --output")
    return files
