"""Find the format that runs Sapling fastest on this CPU, and how far from the machine's own ceiling it is.

\b
    python -m data.sapling.recipe.speed                 fp32 and bf16, both memory formats, some minutes
    python -m data.sapling.recipe.speed --compile       also with torch.compile, which takes minutes to compile
    OMP_NUM_THREADS=1 python -m data.sapling.recipe.speed --rounds 1

The ceiling is a matrix multiplication of 1024 × 1024 in the same dtype. It and the networks in all formats are
measured in turns, so that a machine that is slower for a while slows all, and what is told are medians over rounds
of ratios: the share of the ceiling's operations a second that a network reaches. Generating (50 steps with
guidance, decoding) and inverting (10 steps, no guidance, and encoding) an image are told in seconds, as a multiple
of the time that their operations would take at the ceiling, and of what the first format takes. Writes
``speed.json`` into --output and, where that is the model's own folder, the figures into its card.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import write
from data.sapling.recipe.card import update_figures
from data.sapling.recipe.networks import SAPLING, start_pipeline
from data.sapling.recipe.prepare import FOLDER
from inversion.embedded import sapling_folder
from inversion.model import DTYPES

MATRIX = 1024
GENERATION, INVERSION, GUIDED = 50, 10, 2
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Format:
    """How networks are laid out and computed."""

    dtype: str
    layout: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}, {self.layout}" + (", compiled" if self.compiled else "")

    def apply(self, network: nn.Module) -> Any:  # noqa: ANN401
        """A copy of a network in this format."""
        own = copy.deepcopy(network).to(DTYPES[self.dtype])
        own = own.to(memory_format=LAYOUTS[self.layout])  # type: ignore[call-overload]
        return torch.compile(own) if self.compiled else own

    def lay(self, a: Tensor) -> Tensor:
        """A tensor (B, C, h, w) in this format."""
        return a.to(DTYPES[self.dtype], memory_format=LAYOUTS[self.layout])


def seconds(work: Callable[[], object], least: float = 0.5) -> float:
    """How long something takes, mean over as many calls as fill ``least`` seconds, after one to warm up."""
    work()
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < least or not calls:
        work()
        calls += 1
    return spent / calls


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions, two for each multiplication."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def parts(pipe: StableDiffusionPipeline, form: Format, batch: int) -> dict[str, Callable[[], object]]:
    """The UNet, decoder and encoder in a format, as functions of nothing, for a batch."""
    unet, vae = form.apply(pipe.unet), copy.deepcopy(pipe.vae)
    vae.decoder, vae.encoder = form.apply(vae.decoder), form.apply(vae.encoder)
    vae.to(DTYPES[form.dtype])
    side = pipe.unet.config.sample_size
    z = form.lay(torch.randn(batch, pipe.unet.config.in_channels, side, side))
    x = form.lay(torch.randn(batch, 3, vae.config.sample_size, vae.config.sample_size))
    told = torch.randn(batch, pipe.tokenizer.model_max_length, pipe.text_encoder.config.hidden_size).to(z.dtype)
    return {
        "unet": lambda: unet(z, 500, encoder_hidden_states=told),
        "decoder": lambda: vae.decode(z),
        "encoder": lambda: vae.encode(x),
    }


def ceiling(dtype: str) -> float:
    """Operations a second of a matrix product."""
    a, b = (torch.randn(MATRIX, MATRIX).to(DTYPES[dtype]) for _ in range(2))
    return 2 * MATRIX**3 / seconds(lambda: a @ b)


@torch.inference_mode()
def measure(pipe: StableDiffusionPipeline, forms: list[Format], batch: int, rounds: int) -> dict[str, Any]:
    """Format → what :func:`summary` says of it and the first format."""
    own = {form: parts(pipe, form, batch) for form in forms}
    count = {name: operations(work) / batch for name, work in own[forms[0]].items()}
    tops: dict[str, list[float]] = {form.dtype: [] for form in forms}
    took: dict[Format, dict[str, list[float]]] = {form: {name: [] for name in count} for form in forms}
    for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
        for dtype, found in tops.items():
            found.append(ceiling(dtype))
        for form in forms:
            for name, work in own[form].items():
                took[form][name].append(seconds(work) / batch)
    return {str(form): summary(count, tops[form.dtype], took[form], took[forms[0]]) for form in forms}


def summary(
    count: dict[str, float], top: list[float], took: dict[str, list[float]], first: dict[str, list[float]]
) -> dict[str, Any]:
    """Shares of the ceiling, and what generating and inverting an image takes: medians over rounds.

    Args:
        count: network → operations for an image.
        top: operations a second at the ceiling, by round.
        took: network → seconds an image, by round.
        first: that of the first format.
    """
    found: dict[str, Any] = {"ceiling": statistics.median(top)}
    for name, own in took.items():
        shares = (count[name] / s / t for s, t in zip(own, top, strict=True))
        found[name] = {"seconds": statistics.median(own), "share of ceiling": statistics.median(shares)}
    for name, steps, last in (("generation", GUIDED * GENERATION, "decoder"), ("inversion", INVERSION, "encoder")):
        least = steps * count["unet"] + count[last]
        spent, others = ([steps * u + v for u, v in zip(of["unet"], of[last], strict=True)] for of in (took, first))
        found[name] = {
            "seconds": statistics.median(spent),
            "times the ceiling": statistics.median(s * t / least for s, t in zip(spent, top, strict=True)),
            "of the first format": statistics.median(s / o for s, o in zip(spent, others, strict=True)),
        }
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--model", default=SAPLING, show_default=True, help="sapling, or a diffusers folder.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Latents at a time.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Also compiled.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"[default: the model's folder; {FOLDER} for sapling]",
)
def main(model: str, batch: int, rounds: int, compiled: bool, output: Path | None) -> None:
    """Measure."""
    own = sapling_folder() if model == SAPLING else Path(model)
    output = output or (FOLDER if model == SAPLING else own)
    pipe = start_pipeline(output, model)
    forms = [
        Format(d, layout, c)
        for d in ("fp32", "bf16")
        for layout in LAYOUTS
        for c in ([False, True][: 1 + compiled])
    ]
    settings = {"model": Path(model).name, "batch": batch, "rounds": rounds}
    formats = measure(pipe, forms, batch, rounds)
    path = write("speed", {"settings": settings, "formats": formats}, output)
    for name, found in formats.items():
        click.echo(
            f"{name}: UNet {found['unet']['share of ceiling']:.2f} of {found['ceiling'] / 1e9:.0f} GFLOP/s; "
            f"{GENERATION}-step generation {found['generation']['seconds']:.3f} s an image, "
            f"{found['generation']['times the ceiling']:.1f} times the ceiling's; {INVERSION}-step inversion "
            f"{found['inversion']['seconds']:.3f} s, {found['inversion']['times the ceiling']:.1f} times"
        )
    best = min(formats, key=lambda name: formats[name]["generation"]["seconds"])
    click.echo(f"fastest: {best}; wrote {path}")
    if output.resolve() == own.resolve() and (output / "README.md").exists():
        update_figures(output)


if __name__ == "__main__":
    main()
