"""The card of a model, with what was measured between two markers."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from string import Template
from typing import Any

import click
from safetensors import safe_open

from data.sapling.recipe.networks import AUTOENCODER, DIFFUSION
from data.sapling.recipe.training import read

WEIGHTS = ("vae", "unet", "text_encoder")
MARKED = re.compile(r"<!-- figures -->.*<!-- /figures -->", re.DOTALL)


def paragraph(text: str) -> str:
    """Prose in lines as long as those of the other documents."""
    return textwrap.fill(text, 116, break_long_words=False, break_on_hyphens=False)


def write_card(folder: Path, model: Path) -> None:
    """Write ``README.md`` of a model from the run in ``folder``, and what is measured of it so far."""
    text = Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8")).substitute(
        {part: f"{parameters(model / part) / 1e6:.1f}" for part in WEIGHTS},
        data=data(folder),
        training=training(folder),
    )
    (model / "README.md").write_text(with_figures(text, model), encoding="utf-8")


def update_figures(model: Path) -> None:
    """Put what is measured of a model into its card, and change nothing else of it."""
    card = model / "README.md"
    card.write_text(with_figures(card.read_text(encoding="utf-8"), model), encoding="utf-8")


def with_figures(card: str, model: Path) -> str:
    """A card with the tables of ``evaluation.json`` and ``speed.json`` of a model's folder between its markers.

    Raises:
        click.ClickException: if the card has no markers.
    """
    tables = []
    for name, make in (("evaluation", figures), ("speed", speeds)):
        file = model / f"{name}.json"
        if file.exists():
            tables.append(make(json.loads(file.read_text(encoding="utf-8"))))
    told = "\n\n".join(tables).replace(" -", " −") or "Not measured yet: `python -m data.sapling.recipe.evaluate`."
    if not MARKED.search(card):
        raise click.ClickException(f"the card of {model} has no <!-- figures --> … <!-- /figures -->")
    return MARKED.sub(lambda _: f"<!-- figures -->\n\n{told}\n\n<!-- /figures -->", card)


def parameters(part: Path) -> int:
    """How many numbers the weights in a folder have."""
    total = 0
    for file in part.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        for shape in shapes:
            count = 1
            for length in shape:
                count *= length
            total += count
    return total


def data(folder: Path) -> str:
    """What the pictures were made from."""
    about = folder / "data" / "sources.json"
    if not about.exists():
        return "Not prepared by this run."
    found = json.loads(about.read_text(encoding="utf-8"))
    lines = [
        paragraph(
            f"{found['count']:,} composites of {found['size']} × {found['size']} pixels and {found['held_out']:,} "
            f"held out, made by `prepare.py` with seed {found['seed']} (SHA-256 of all pixels and captions "
            f"`{found['sha256'][:16]}…`): {found['stamps']} stamps of {len(found['names'])} objects on crops of "
            f"{len(found['wallpapers'])} wallpapers; {len(found['held-out wallpapers'])} others are for held-out "
            "pictures alone. No photographs of people, no scraped images. From these Debian packages:"
        ),
        "",
        "| package | version | licences |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {about['version']} | {', '.join(about['licences'])} |"
        for name, about in found["packages"].items()
    ]
    return "\n".join(lines)


def training(folder: Path) -> str:
    """What was trained, from which weights, and for how long."""
    lines = []
    for name, told in ((AUTOENCODER, "Autoencoder"), (DIFFUSION, "Diffusion network and text encoder")):
        if not (folder / name).exists():
            lines.append(f"{told}: as it was.")
            continue
        saved = read(folder / name)
        settings = saved["settings"]
        frozen = ", decoder alone, the encoder frozen" if settings.get("decoder_only") else ""
        lines.append(
            f"{told}{frozen}: {saved['step']:,} steps of {settings['batch']}, {saved['seconds'] / 60:,.1f} "
            f"minutes, from {'scratch' if settings['start'] == 'scratch' else 'the weights before'}; Muon and "
            "AdamW, exponential moving average of the weights, bf16."
        )
    return "\n\n".join(map(paragraph, lines))


def figures(found: dict[str, Any]) -> str:
    """Tables of what was measured."""
    rows = ["| | pictures | PSNR of D(E(x)) | NMSE of E(D(z)) to z |", "|---|---|---|---|"]
    for name, own in found["reconstruction"].items():
        told = {"photographs": "photographs of scikit-learn"}.get(name, name)
        rows.append(f"| {told} | {own['pictures']} | {own['psnr']:.2f} dB | {own['nmse of E(D(z))']:.1f} dB |")
    told = (
        "E∘D near latents, the most extreme of a few: its Jacobian J by Lanczos' method, and cocoercivity β along"
    )
    rows += ["", f"{told} forward steps.", ""]
    rows += ["| | σ max of J | σ min of J, ≤ | λ min of (J + Jᵀ)/2, ≤ | ‖I − J‖, ≥ | β |", "|---" * 6 + "|"]
    for name, own in found["spectrum"].items():
        rows.append(
            f"| {name} | {max(own['largest singular value']):.3g} | {min(own['smallest singular value']):.3g} "
            f"| {min(own['monotone']):.3g} | {max(own['distance from identity']):.3g} "
            f"| {min(own['cocoercivity']):.3g} |"
        )
    by_time = found["loss by time"]
    rows += ["", "Mean square error of v on held-out latents, by time of 1000:", ""]
    rows += ["| " + " | ".join(by_time) + " |", "|---" * len(by_time) + "|"]
    rows += ["| " + " | ".join(f"{value:.3f}" for value in by_time.values()) + " |", ""]
    frechet, near = found["frechet"], found["nearest"]
    rows.append(
        paragraph(
            f"Fréchet distance from held-out pictures, on energies of random filters at three scales: "
            f"{frechet['generated']:.2f} for {frechet['pictures']} samples, {frechet['training pictures']:.2f} for "
            f"as many training pictures. The nearest training picture is {near['generated'][2]:.2f} times as far "
            f"as the 50 nearest on average (median, at 32 × 32 pixels), for held-out ones "
            f"{near['held out'][2]:.2f}; "
            f"{100 * near['closer than 99 % of held out']:.1f} % of the samples are closer than 99 % of held-out "
            "pictures."
        )
    )
    rows += ["", f"Weights: {found['megabytes']} MB."]
    return "\n".join(rows)


def speeds(found: dict[str, Any]) -> str:
    """A table of how fast the networks are in every format, as ratios."""
    formats = found["formats"]
    rows = [
        "| format | UNet | decoder | encoder | generation | inversion | generation, to the first row's |",
        "|---" * 7 + "|",
    ]
    for name, own in formats.items():
        shares = " | ".join(f"{own[part]['share of ceiling']:.2f}" for part in ("unet", "decoder", "encoder"))
        times = " | ".join(f"× {own[part]['times the ceiling']:.1f}" for part in ("generation", "inversion"))
        rows.append(f"| {name} | {shares} | {times} | {own['generation']['of the first format']:.2f} |")
    threads = found["environment"]["threads"]
    told = (
        "Speed beside a matrix product of the same dtype, in the same run: the share of its operations a second "
        "that networks reach; how many times as long as at its speed the generation of an image takes (50 steps "
        "with guidance, and decoding) and an inversion (10 steps, and encoding); and generation's time relative to "
        f"the first row's. {found['settings']['batch']} images at a time, "
        f"{threads} thread{'s' if threads != 1 else ''}. Whether bf16 gains depends on the processor."
    )
    return "\n".join([paragraph(told), "", *rows])
