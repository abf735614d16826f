"""Export what a run has trained as a diffusers folder in float16, with its card.

\b
    python -m data.sapling.recipe.export                                    into build/sapling/model
    python -m data.sapling.recipe.export --folder build/other

Parts that the run has not trained are those that it started from. The folder is what ``LatentDiffusionModel.load``
and ``StableDiffusionPipeline.from_pretrained`` take; to ship it, copy its files over those of data/sapling.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch

from data.sapling.recipe.card import write_card
from data.sapling.recipe.networks import AUTOENCODER, DIFFUSION, SCRATCH, trained_pipeline
from data.sapling.recipe.prepare import FOLDER
from data.sapling.recipe.training import read

LARGEST = 30e6
"""Bytes of weights that Sapling may have."""


def started_from(folder: Path) -> str:
    """What the checkpoints say that they started from.

    Raises:
        click.ClickException: if there are none, they disagree, or one is missing that the latents depend on.
    """
    found = {name: read(folder / name) for name in (AUTOENCODER, DIFFUSION) if (folder / name).exists()}
    starts = {saved["settings"]["start"] for saved in found.values()}
    if len(starts) != 1:
        raise click.ClickException(
            f"{folder} has {'checkpoints of different starts' if starts else 'no checkpoint'}"
        )
    start: str = starts.pop()
    needed = {AUTOENCODER, DIFFUSION} if start == SCRATCH else set()
    if AUTOENCODER in found and not found[AUTOENCODER]["settings"]["decoder_only"]:
        needed = {AUTOENCODER, DIFFUSION}  # the latents are others than before
    if needed - set(found):
        raise click.ClickException(f"{folder} still needs {', '.join(sorted(needed - set(found)))} to be trained")
    return start


def export(folder: Path) -> Path:
    """Write ``folder/model``, which is complete, as it was before, or for a moment ``folder/model.old``.

    Raises:
        click.ClickException: if the checkpoints make no model, see :func:`started_from` and
            :func:`data.sapling.recipe.networks.trained_pipeline`, or its weights are too large.
    """
    pipe = trained_pipeline(folder, started_from(folder))
    out, part, old = (folder / f"model{suffix}" for suffix in ("", ".part", ".old"))
    shutil.rmtree(part, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(part)
    for config in (part / "model_index.json", *part.rglob("*config.json")):
        tidy(config)
    size = sum(file.stat().st_size for file in part.rglob("*.safetensors"))
    if size > LARGEST:
        raise click.ClickException(f"the weights take {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}")
    write_card(folder, part)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    part.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return out


def tidy(config: Path) -> None:
    """Leave out where parts were loaded from, and let the text encoder load as float32, as the others do."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    for key, value in (("dtype", "float32"), ("local_files_only", False)):
        if key in values:
            values[key] = value
    config.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default=True)
def main(folder: Path) -> None:
    """Export."""
    click.echo(f"wrote {export(folder)}")


if __name__ == "__main__":
    main()
