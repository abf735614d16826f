"""The commands that test images: ``treering verify`` and ``inspect``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.cli_options import (
    CARRIED,
    NOT_CARRIED,
    TROUBLE,
    Trouble,
    fpr_option,
    inversion_options,
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
    from inversion import LatentDiffusionModel
    from watermark.keys import RingKey
    from watermark.verify import Verifier

MOST_TRANSFORMS = 100_000
VERDICT_FIELDS = (
    *("name", "status", "key", "p_value", "rho", "evidence", "keys_tried", "transforms_tried", "transform"),
    *("fpr", "other_keys", "null_hits", "null_images", "fpr_bound", "number", "correlation", "number_p_value"),
    *("reason", "warnings", "sha256"),
)


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
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            self.fail(f"{value!r} is not a number or a range of numbers, like 17 or 0-999", param, ctx)
        return range(int(first), int(last) + 1)


def chosen_keys(
    store: Path, names: tuple[str, ...], all_keys: bool, *, optional: bool = False
) -> dict[str, RingKey]:
    """The keys that were asked for, by name; each of them once. If they are optional there may be none."""
    if optional and not names and not all_keys:
        return {}
    if all_keys == bool(names):
        raise click.UsageError("give either --key NAME, once or more, or --all-keys")
    with understood():
        keys = key_store(store)
        wanted = [entry.name for entry in keys.list()] if all_keys else list(dict.fromkeys(names))
        if not wanted:
            raise Trouble(f"no keys in {store}; make one: treering key create NAME")
        warn_of_revoked(keys, wanted)
        return {name: keys.get(name) for name in wanted}


def fits(name: str, key: Any, model: LatentDiffusionModel) -> bool:  # noqa: ANN401 - ours or of other code
    """Whether a key can be looked for with a model; says so on stderr if not."""
    from watermark.verify import why_unfit

    problem = why_unfit(key, model.latent_shape)
    if problem is not None:
        click.echo(
            f"treering: warning: the key {name!r} is left out, it does not fit the model: {problem}", err=True
        )
    return problem is None


def calibrated(verifier: Verifier) -> Verifier:
    """A verifier with its model's calibration; says so on stderr if that is for other settings."""
    from watermark.verify import calibration_file, with_calibration

    found = with_calibration(verifier)
    if found.calibration is None and calibration_file(verifier.model).is_file():
        click.echo("treering: warning: the model's calibration is for other settings and not used", err=True)
    return found


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--key", "key_names", multiple=True, help="Key to look for; may be repeated.")
@click.option("--all-keys", is_flag=True, help="Look for every key of the store.")
@click.option(
    "--foreign-key",
    "foreign",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="File of treering key foreign: a key of other code; may be repeated.",
)
@fpr_option
@inversion_options
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--rotations",
    type=click.IntRange(1),
    help="Look at so many angles, evenly spaced.  [default: 4; 2 if latents are not square]",
)
@click.option("--mirrored/--no-mirrored", default=True, show_default=True, help="Look at the mirror image, too.")
@click.option("--shifts", type=click.IntRange(0), default=0, help="Look at shifts up to so many latent pixels.")
@click.option(
    "--crop",
    "crops",
    type=Crop(),
    multiple=True,
    help="Look for a crop to this share of height and width, 0.8, or of each, 1x0.75, stretched to the old shape.",
)
@click.option(
    "--numbers",
    type=Numbers(),
    help="Say which of these pictures of the key it is, e.g. 0-999: see embed --number.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of treering calibrate.  [default: that of the model, if it has one that fits]",
)
@store_option
@model_options
@output_options
def verify(
    images: tuple[Path, ...],
    key_names: tuple[str, ...],
    all_keys: bool,
    foreign: tuple[Path, ...],
    fpr: float,
    steps: int,
    decoder: str,
    batch_size: int,
    rotations: int | None,
    mirrored: bool,
    shifts: int,
    crops: tuple[float | tuple[float, float], ...],
    numbers: range | None,
    calibration: Path | None,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Test images for keys.

    The p-value is the probability that a picture without the mark fits a key as well as this one does, corrected
    for the number of keys and of transformations that were looked at: by default mirroring and right angles. ρ
    says how well the mark came back: about 0.7 is unharmed, 0 is nothing. What p rests on is said below the table.
    Exit codes: 0 every image carries a key, 1 some image does not, 2 trouble.

    \b
    treering verify out/*.png --key alice
    treering verify suspect.jpg --key alice --key bob --fpr 1e-9
    treering verify turned.jpg --key alice --rotations 72 --crop 0.8 --crop 0.9
    treering verify out/*.png --key alice --calibration sapling.safetensors
    treering verify *.png --all-keys --json | jq 'select(.status == "watermarked")'
    treering verify picture.png --key alice --numbers 0-9999
    treering verify theirs.png --foreign-key theirs.safetensors --calibration nulls.safetensors --fpr 1e-2
    treering verify --key alice -- -oddly-named.png
    """
    from watermark import report
    from watermark.calibration import Calibration
    from watermark.foreign import read_array_key
    from watermark.search import right_angles, transforms_of
    from watermark.verdict import UNREADABLE, WATERMARKED
    from watermark.verify import Verifier

    keys: dict[str, Any] = dict(chosen_keys(store, key_names, all_keys, optional=bool(foreign)))
    with understood():
        for file in foreign:
            if file.stem in keys:
                raise Trouble(f"two keys are called {file.stem!r}; rename {file}")
            keys[file.stem] = read_array_key(file)
    loaded = load_model(**model)
    verdicts = []
    with understood(), progress_bar() as track:
        transforms = transforms_of(rotations or right_angles(loaded.latent_shape), mirrored, shifts, crops)
        given = None if calibration is None else Calibration.load(calibration)
        if len(transforms) > MOST_TRANSFORMS:
            raise Trouble(f"that is {len(transforms):,} transformations, more than {MOST_TRANSFORMS:,}")
        fitting = {name: key for name, key in keys.items() if not all_keys or fits(name, key, loaded)}
        verifier = Verifier(loaded, fitting, fpr, steps, decoder, batch_size, transforms, given, numbers or ())
        verifier = calibrated(verifier) if given is None else verifier
        verifier.prepare(lambda done, total: track("null images", done, total))
        for verdict in verifier.verify(images):
            verdicts.append(verdict)
            track("verifying", len(verdicts), len(images))
            if form == "json":
                click.echo(report.json_line(verdict))
    with understood():
        if form == "csv":
            report.write_csv(verdicts, VERDICT_FIELDS, sys.stdout)
        elif form is None:
            report.print_table(report.verdict_table(verdicts), sys.stdout)
    if form is None:
        click.echo(report.evidence_text(verdicts))
    if any(v.status == UNREADABLE for v in verdicts):
        return TROUBLE
    return CARRIED if all(v.status == WATERMARKED for v in verdicts) else NOT_CARRIED


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--key", "key_name", required=True, help="Key to look for.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: IMAGE-rings.png]")
@fpr_option
@inversion_options
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
    """Draw the spectrum of an image's recovered noise, and what a key sees in it.

    The figure shows the key's pattern: keep it as secret as the key. Exit codes are those of verify.

    \b
    treering inspect suspect.png --key alice
    treering inspect suspect.png --key alice -o rings.pdf
    """
    from watermark import plots, report
    from watermark.images import read_picture
    from watermark.verdict import UNREADABLE, WATERMARKED
    from watermark.verify import Verifier

    keys = chosen_keys(store, (key_name,), False)
    with understood():
        verifier = calibrated(Verifier(load_model(**model), keys, fpr=fpr, steps=steps, decoder=decoder))
        (examined,) = verifier.examine([image])
        verdict = examined.verdict
        report.print_table(report.verdict_table([verdict]), sys.stdout)
        if examined.noise is None:
            return TROUBLE if verdict.status == UNREADABLE else NOT_CARRIED
        file = output or image.with_name(f"{image.stem}-rings.png")
        plots.save(plots.inspection_figure(read_picture(image).pixels, examined, keys[key_name]), file)
    click.echo(f"figure: {file} (mode 0600; keep it as secret as the key)")
    return CARRIED if verdict.status == WATERMARKED else NOT_CARRIED
