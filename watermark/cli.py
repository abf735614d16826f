"""The command ``treering``: maps words to functions and errors to exit codes.

Heavy modules are imported inside the commands, so that ``--help`` is quick and the check for name clashes comes
before anything that a clash could break.
"""

from __future__ import annotations

import os
import secrets
import sys
import traceback
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.cli_keys import key
from watermark.cli_options import (
    TROUBLE,
    Trouble,
    key_store,
    load_model,
    marking_key,
    model_options,
    output_options,
    progress_bar,
    quiet_loaders,
    store_option,
    understood,
    warn_of_revoked,
    write_records,
)

if TYPE_CHECKING:
    from watermark.keys import RingKey

CARRIED, NOT_CARRIED, INTERRUPTED = 0, 1, 130
FPR = 1e-6
DECODERS = ("anderson", "forward_step", "encoder")
DECODER_HELP = "How pixels become latents: decoder inversion, or the encoder alone."
VERDICT_FIELDS = (
    *("name", "status", "key", "p_value", "rho", "keys_tried", "transforms_tried", "transform"),
    *("null_hits", "null_images", "fpr_bound", "reason", "warnings", "sha256"),
)

fpr_option = click.option(
    "--fpr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=FPR,
    show_default=True,
    help="Call an image watermarked if its p-value, corrected for the number of keys, is at most this.",
)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns 0: every image carries a key, 1: some image does not, 2: trouble, 130: interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        check_name_clash()
        result = cli.main(args=args, prog_name="treering", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (click.Abort, KeyboardInterrupt):
        click.echo("treering: interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return TROUBLE
    except SystemExit:  # click's answer to a closed pipe
        return TROUBLE
    except Exception:
        traceback.print_exc()
        click.echo("treering: this is a bug; please report it with the lines above", err=True)
        return TROUBLE


def check_name_clash() -> None:
    """Stop if a PyPI project that installs the same top-level names is installed beside treering."""
    for name in ("watermark", "inversion"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        raise Trouble(
            f"the PyPI project {name!r} ({version}) is installed beside treering, and both own the module "
            f"{name!r}. Run: pip uninstall {name}, then install treering again with pip's --force-reinstall"
        )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="treering")
def cli() -> None:
    """Tree-ring watermarks for latent diffusion models: embed them, and verify suspect images.

    \b
    treering demo                               see it work, in a minute or two
    treering key create alice                   make a key
    treering embed "a red apple" --key alice    generate a picture that carries it
    treering verify *.png --key alice           which pictures carry it?
    treering inspect x.png --key alice          look at the rings

    Exit codes: 0 every image carries a key, 1 some image does not, 2 trouble, 130 interrupted.
    """


@cli.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("treering-demo"),
    show_default=True,
)
@fpr_option
def demo(output: Path, fpr: float) -> int:
    """Mark pictures, compress them, and tell them from unmarked ones.

    Makes a key, generates 8 marked and 8 unmarked pictures with the embedded model, adds crops of real photographs,
    verifies all of them, compresses the marked ones as JPEG and verifies again. Writes the images, the key and a
    figure. Exits with 0 if exactly the marked ones are found.

    \b
    treering demo
    treering demo -o /tmp/demo --fpr 1e-3
    """
    from watermark import report
    from watermark.demo import run

    quiet_loaders()
    with understood(), progress_bar() as track:
        groups, figure = run(output, fpr=fpr, track=track)
    out = sys.stdout
    for group in groups:
        report.print_table(report.verdict_table(group.verdicts, title=group.title), out)
        click.echo()
    for group in groups:
        click.echo(f"{group.title}: {group.found} of {len(group.verdicts)} found")
    click.echo(f"level: p ≤ {fpr:g}    figure: {figure}")
    right = all(group.found == (len(group.verdicts) if group.marked else 0) for group in groups)
    return CARRIED if right else NOT_CARRIED


cli.add_command(key)


@cli.command()
@click.argument("prompts", nargs=-1, required=True)
@click.option("--key", "key_name", required=True, help="Key to mark with.")
@click.option(
    "-n", "--count", type=click.IntRange(1), default=1, show_default=True, help="Pictures for each prompt."
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**62), help="Seed of the first picture. [default: random]")
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
    guidance: float,
    steps: int,
    batch_size: int,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> None:
    """Generate watermarked pictures.

    \b
    treering embed "a red apple on a blue background" --key alice
    treering embed "a tiger" "a strawberry" --key alice -n 4 -o out/ --seed 7
    treering embed "a photo of a fox" --key alice --model stable-diffusion-v1-5/stable-diffusion-v1-5 --guidance 7.5
    """
    from watermark.generate import file_name, generate, save

    every = [prompt for prompt in prompts for _ in range(count)]
    seed = secrets.randbelow(2**31) if seed is None else seed
    with understood():
        ring_key = marking_key(key_store(store), key_name)
        output.mkdir(parents=True, exist_ok=True)
        for i, prompt in enumerate(every):
            if (file := output / file_name(prompt, seed + i)).exists():
                raise Trouble(f"{file} exists; choose another --seed or --output")
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        made = generate(
            loaded,
            every,
            key=ring_key,
            seed=seed,
            guidance=guidance,
            steps=steps,
            batch_size=batch_size,
            progress=lambda done, total: track(f"generating {len(every)} pictures", done, total),
        )
        saved = [save(picture, output) for picture in made]
    write_records(saved, ["path", "prompt", "seed"], form)


@cli.command()
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


@cli.command()
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


@cli.command()
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
