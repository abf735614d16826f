"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FPR = 1e-6
DECODERS = ("shrinkage", "anderson", "forward_step", "encoder")
FILE_IN_META = "watermark.passphrase_file"
"""Where click's context keeps the file of :func:`store_option`."""

fpr_option = click.option(
    "--fpr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=FPR,
    show_default=True,
    help="Call an image watermarked if its p-value, corrected for all that was looked at, is at most this, and "
    "not more null images pass than this level allows.",
)


def inversion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of how noise is recovered."""
    command = click.option(
        "--decoder",
        type=click.Choice(DECODERS),
        default=DECODERS[0],
        show_default=True,
        help="How pixels become latents. shrinkage: decoder inversion, taken back where pixels seem changed; "
        "anderson: without that; forward_step: the published one; encoder: none. A calibration is for one of them.",
    )(command)
    return click.option(
        "--steps", type=click.IntRange(1), default=10, show_default=True, help="Steps of diffusion inversion."
    )(command)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that choose and load a model."""
    for option in (
        click.option("--revision", help="Revision of a hub model."),
        click.option("--variant", help="File variant of the weights, e.g. fp16."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto."),
        click.option(
            "--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True
        ),
        click.option(
            "--model", default="sapling", show_default=True, help="sapling, a diffusers folder or a hub id."
        ),
    ):
        command = option(command)
    return command


calibration_option = click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of treering calibrate.  [default: that of the model, if it has one that fits]",
)

any_model_option = click.option(
    "--any-model",
    is_flag=True,
    help="Look for keys that are meant for another model, too, as where --model names a copy of that.",
)


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where keys are kept and what opens them; the command gets ``store``, the path.

    :func:`watermark.commands.stores.key_store` finds the passphrase file by itself.
    """
    default = Path(click.get_app_dir("treering")) / "keys.db"
    command = click.option(
        "--passphrase-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        expose_value=False,
        callback=lambda context, _, file: context.meta.update({FILE_IN_META: file}),
        help="File whose first line (UTF-8) opens an encrypted store. [default: $TREERING_PASSPHRASE, or ask]",
    )(command)
    return click.option(
        "--store",
        type=click.Path(dir_okay=False, path_type=Path),
        default=default,
        envvar="TREERING_STORE",
        show_default=True,
        show_envvar=True,
        help="Key store.",
    )(command)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for machine-readable output."""
    command = click.option("--csv", "form", flag_value="csv", help="CSV with a header.")(command)
    return click.option("--json", "form", flag_value="json", help="One JSON object a line.")(command)
