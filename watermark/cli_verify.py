"""The commands that recover noise from images: ``treering verify``, ``inspect`` and ``calibrate``."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.cli_options import (
    CARRIED,
    NOT_CARRIED,
    TROUBLE,
    Trouble,
    fpr_option,
    key_store,
    load_model,
    model_options,
    output_options,
    progress_bar,
    store_option,
    understood,
    warn_of_revoked,
)

if TYPE_CHECKING:
    from watermark.keys import RingKey

DECODERS = ("anderson", "forward_step", "encoder")
DECODER_HELP = "How pixels become latents: decoder inversion, or the encoder alone."
VERDICT_FIELDS = (
    *("name", "status", "key", "p_value", "rho", "keys_tried", "transforms_tried", "transform"),
    *("null_hits", "null_images", "fpr_bound", "reason", "warnings", "sha256"),
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--key", "key_names", multiple=True, help="Key to look for; may be repeated.")
@click.option("--all-keys", is_flag=True, help="Look for every key of the store.")
@fpr_option
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="DDIM inversion steps.")
@click.option("--decoder", type=click.Choice(DECODERS), default=DECODERS[0], show_default=True, help=DECODER_HELP)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--rotations", type=click.IntRange(1), default=1, help="Look at so many angles, evenly spaced.")
@click.option("--mirrored", is_flag=True, help="Look at the mirror image, too.")
@click.option("--shifts", type=click.IntRange(0), default=0, help="Look at shifts up to so many latent pixels.")
@click.option(
    "--crop",
    "crops",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    help="Look for a crop to this share.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of treering calibrate.",
)
@store_option
@model_options
@output_options
def verify(
    images: tuple[Path, ...],
    key_names: tuple[str, ...],
    all_keys: bool,
    fpr: float,
    steps: int,
    decoder: str,
    batch_size: int,
    rotations: int,
    mirrored: bool,
    shifts: int,
    crops: tuple[float, ...],
    calibration: Path | None,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Test images for keys.

    The p-value is the probability that a picture without the mark fits a key as well as this one does, corrected
    for the number of keys and of transformations that were looked at. ρ says how well the mark came back: about
    0.7 is unharmed, 0 is nothing.

    \b
    treering verify out/*.png --key alice
    treering verify suspect.jpg --key alice --key bob --fpr 1e-9
    treering verify turned.jpg --key alice --rotations 72 --mirrored --crop 0.8 --crop 0.9
    treering verify out/*.png --key alice --calibration sapling.safetensors
    treering verify *.png --all-keys --json | jq 'select(.status == "watermarked")'
    treering verify --key alice -- -oddly-named.png
    """
    from watermark import report
    from watermark.calibration import Calibration
    from watermark.search import transforms_of
    from watermark.verify import UNREADABLE, WATERMARKED, Verifier

    keys = chosen_keys(store, key_names, all_keys)
    loaded = load_model(**model)
    verdicts = []
    with understood(), progress_bar() as track:
        transforms = transforms_of(rotations, mirrored, shifts, crops)
        nulls = None if calibration is None else Calibration.load(calibration)
        verifier = Verifier(loaded, keys, fpr, steps, decoder, batch_size, transforms, nulls)
        for verdict in verifier.verify(images):
            verdicts.append(verdict)
            track("verifying", len(verdicts), len(images))
            if form == "json":
                click.echo(report.json_line(verdict))
    if form == "csv":
        report.write_csv(verdicts, VERDICT_FIELDS, sys.stdout)
    elif form is None:
        report.print_table(report.verdict_table(verdicts), sys.stdout)
    if any(v.status == UNREADABLE for v in verdicts):
        return TROUBLE
    return CARRIED if all(v.status == WATERMARKED for v in verdicts) else NOT_CARRIED


@click.command()
@click.option(
    "--generate", "count", type=click.IntRange(0), default=0, help="Pictures of the model, half of them marked."
)
@click.option(
    "--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of real images."
)
@click.option("--prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One prompt a line.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Of the first picture.")
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Classifier-free guidance scale.")
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="DDIM inversion steps.")
@click.option("--decoder", type=click.Choice(DECODERS), default=DECODERS[0], show_default=True, help=DECODER_HELP)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write."
)
@model_options
def calibrate(
    count: int,
    images: Path | None,
    prompts: Path | None,
    seed: int,
    guidance: float,
    steps: int,
    decoder: str,
    output: Path,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> None:
    """Measure what noise without a mark looks like, for verify --calibration.

    Use pictures that the model generated, unmarked and marked with keys that nobody has, and real images of the
    kind that will be verified. A false positive rate of 1e-3 is supported by 3,000 images of which none is one.

    \b
    treering calibrate --images photographs/ -o sapling.safetensors
    treering calibrate --images photographs/ --generate 500 -o sapling.safetensors
    treering calibrate --images photographs/ --model stabilityai/sdxl-turbo -o turbo.safetensors
    """
    from inversion.model import data_folder
    from watermark.keys import RingKey
    from watermark.nulls import GIVEN, calibrate, generated_nulls
    from watermark.verify import Verifier

    files = sorted(f for f in images.rglob("*") if f.is_file()) if images is not None else []
    if not count and not files:
        raise click.UsageError("give --generate N, --images FOLDER with files in it, or both")
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        lines = (prompts or data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
        made = generated_nulls(
            loaded, [line for line in lines if line.strip()], count, seed=seed, guidance=guidance
        )
        nulls = chain(made, ((GIVEN, file) for file in files))
        verifier = Verifier(loaded, {"none": RingKey.generate()}, steps=steps, decoder=decoder)
        found = calibrate(verifier, nulls, lambda done: track("null images", done, count + len(files)))
        found.save(output)
    counts = ", ".join(f"{n} {family}" for family, n in found.counts.items())
    click.echo(f"wrote {output}: {counts}; supports false positive rates down to {found.smallest_level:.1e}")


def chosen_keys(store: Path, names: tuple[str, ...], all_keys: bool) -> dict[str, RingKey]:
    """The keys that were asked for, by name; each of them once."""
    if all_keys == bool(names):
        raise click.UsageError("give either --key NAME, once or more, or --all-keys")
    with understood():
        keys = key_store(store)
        wanted = [entry.name for entry in keys.list()] if all_keys else list(dict.fromkeys(names))
        if not wanted:
            raise Trouble(f"no keys in {store}; make one: treering key create NAME")
        warn_of_revoked(keys, wanted)
        return {name: keys.get(name) for name in wanted}


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--key", "key_name", required=True, help="Key whose rings to look for.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: IMAGE-rings.png]")
@fpr_option
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="DDIM inversion steps.")
@click.option("--decoder", type=click.Choice(DECODERS), default=DECODERS[0], show_default=True, help=DECODER_HELP)
@store_option
@model_options
def inspect(
    image: Path,
    key_name: str,
    output: Path | None,
    fpr: float,
    steps: int,
    decoder: str,
    store: Path,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Draw the spectrum of an image's recovered noise beside a key's rings.

    The figure shows the key's pattern: keep it as secret as the key. Exit codes are those of verify.

    \b
    treering inspect suspect.png --key alice
    treering inspect suspect.png --key alice -o rings.pdf
    """
    from watermark import plots, report
    from watermark.images import read_picture
    from watermark.verify import UNREADABLE, WATERMARKED, Verifier

    keys = chosen_keys(store, (key_name,), False)
    verifier = Verifier(load_model(**model), keys, fpr=fpr, steps=steps, decoder=decoder)
    with understood():
        ((verdict, noise),) = verifier.examine([image])
        report.print_table(report.verdict_table([verdict]), sys.stdout)
        if noise is None:
            return TROUBLE if verdict.status == UNREADABLE else NOT_CARRIED
        file = output or image.with_name(f"{image.stem}-rings.png")
        plots.save(plots.inspection_figure(read_picture(image).pixels, noise, keys[key_name], verdict), file)
    click.echo(f"figure: {file}")
    return CARRIED if verdict.status == WATERMARKED else NOT_CARRIED
