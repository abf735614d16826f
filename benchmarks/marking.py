"""Marks that are written into pictures that exist: how visible they are, and how surely found.

    python -m benchmarks.marking            100 pictures, five strengths, four hours on a core; resumes
    python -m benchmarks.marking --quick    one of each kind, few steps; a minute

Pictures that Sapling generated without a mark, squares of photographs at the model's own size, and larger squares,
which are marked at the model's size and keep their detail. Each gets a key of its own. ``gradient`` is the default,
at several strengths (the correlation ρ asked for); ``sampling`` does without gradients; none may go below 30 dB.
*From the start* are pictures generated with the key, of the same prompts and seeds. What is written is verified as
it is, by the encoder alone, and after JPEG 75 and the six attacks of Wen et al. 2023. Turned pictures are looked
for at 72 angles, cropped ones in their place and for shifts, and p is corrected for that; all others with what a
verifier looks for by default. Pictures before marking are verified with the same keys: that one of these is found
is a false positive.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.attacks import ATTACKS, SIX
from benchmarks.marking_report import draw, readme_table, summary
from benchmarks.null_images import crop, photographs
from benchmarks.rates import tidy
from benchmarks.record import RESULTS, resume, write
from inversion import LatentDiffusionModel, sample
from inversion.model import data_folder
from watermark.generate import initial_noise, to_images
from watermark.keys import RingKey
from watermark.marking.mark import STRENGTH, mark
from watermark.transforms import transforms_of
from watermark.verdict import Verdict
from watermark.verify import Verifier

Json = dict[str, Any]

GENERATED, PHOTOGRAPHS, LARGE = "generated", "photographs", "large photographs"
BEFORE, START = "before", "from the start"
ENCODER = "encoder alone"
SEED, GUIDANCE, LARGE_SIDE, FPR = 41, 3.0, 384, 1e-3


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        pictures: how many of each kind.
        marks: (method, strength) of every way to mark.
        conditions: what is done to marked pictures; ``clean`` first.
        generation: steps of generation.
        steps: of diffusion inversion.
        rounds: of marking, at most.
    """

    pictures: dict[str, int]
    marks: tuple[tuple[str, float], ...]
    conditions: tuple[str, ...]
    generation: int
    steps: int
    rounds: int


FULL = Run(
    pictures={GENERATED: 64, PHOTOGRAPHS: 24, LARGE: 12},
    marks=(("gradient", 0.2), ("gradient", 0.35), ("gradient", 0.5), ("gradient", 0.65), ("sampling", 0.3)),
    conditions=("clean", ENCODER, "JPEG 75", *SIX),
    generation=25,
    steps=10,
    rounds=8,
)
QUICK = Run(
    pictures={GENERATED: 1, PHOTOGRAPHS: 1, LARGE: 1},
    marks=(("gradient", 0.5), ("sampling", 0.3)),
    conditions=("clean", "JPEG 25"),
    generation=3,
    steps=3,
    rounds=2,
)


def own_key(kind: str, i: int) -> RingKey:
    """The key of a picture, the same every time."""
    return RingKey(hashlib.sha256(f"marking {kind} {i}".encode()).digest())


def generated(model: LatentDiffusionModel, i: int, key: RingKey | None, steps: int) -> Image.Image:
    """Picture i of Sapling, with a key or without, of the same noise elsewhere."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    z = sample(
        model, initial_noise(model, key, SEED + i), prompt=lines[i % len(lines)], guidance=GUIDANCE, steps=steps
    )
    return to_images(model.autoencoder.decode(z))[0]


def original(model: LatentDiffusionModel, kind: str, i: int, run: Run) -> Image.Image:
    """Picture i of a kind, without a mark."""
    if kind == GENERATED:
        return generated(model, i, None, run.generation)
    size = model.image_size if kind == PHOTOGRAPHS else (LARGE_SIDE, LARGE_SIDE)
    sources = [source for source in photographs() if min(source.size) >= max(size)]
    return crop(sources[i % len(sources)], size, np.random.default_rng([SEED, len(kind), i])).convert("RGB")


def verifiers(model: LatentDiffusionModel, key: RingKey, run: Run) -> Callable[[str], Verifier]:
    """The verifier for every condition: by default, or one that looks for what was done."""
    plain = Verifier(model, {"key": key}, fpr=FPR, steps=run.steps)
    others = {
        ENCODER: replace(plain, decoder="encoder"),
        "rotation 75°": replace(plain, transforms=transforms_of(72)),
        "crop 0.75": replace(plain, transforms=transforms_of(shifts=5, crops=(0.75,))),
    }
    return lambda condition: others.get(condition, plain)


def seen(verdict: Verdict) -> Json:
    """What is kept of a verdict."""
    if verdict.p_value is None or verdict.rho is None:
        return {"p": 1.0, "rho": 0.0, "status": verdict.status}
    return {"p": tidy(verdict.p_value), "rho": tidy(verdict.rho), "status": verdict.status}


def examined(
    image: Image.Image, i: int, verifier_for: Callable[[str], Verifier], conditions: tuple[str, ...]
) -> Json:
    """Verdicts on a picture under all conditions."""
    out: Json = {}
    for number, condition in enumerate(conditions):
        attack = ATTACKS.get(condition)
        rng = np.random.default_rng([SEED, number, i])
        (verdict,) = verifier_for(condition).verify([attack(image, rng) if attack else image])
        out[condition] = seen(verdict)
    return out


def record_of(model: LatentDiffusionModel, kind: str, i: int, way: tuple[str, float], run: Run) -> Json:
    """Everything about one picture that was marked in one way."""
    verifier_for = verifiers(model, own_key(kind, i), run)
    if way[0] == BEFORE:
        return {"seen": examined(original(model, kind, i, run), i, verifier_for, ("clean",))}
    if way[0] == START:
        image = generated(model, i, own_key(kind, i), run.generation)
        return {"seen": examined(image, i, verifier_for, run.conditions)}
    method, strength = way
    pixels = np.asarray(original(model, kind, i, run))
    (made,) = mark(verifier_for("clean"), [pixels], strength=strength, method=method, rounds=run.rounds)
    conditions = tuple(c for c in run.conditions if c != "clean")
    image = Image.fromarray(made.pixels)
    return {
        "psnr": None if math.isinf(made.psnr) else tidy(made.psnr),
        "ssim": tidy(made.ssim),
        "rounds": made.rounds,
        "seen": {"clean": seen(made.verdict)} | examined(image, i, verifier_for, conditions),
    }


def name_of(way: tuple[str, float]) -> str:
    """A way of marking in words."""
    return f"{way[0]}, ρ = {way[1]:g}" if way[1] else way[0]


def cells_of(run: Run) -> list[tuple[str, tuple[str, float]]]:
    """Every kind of picture and way of marking, the default first, as it is what matters."""
    ways = sorted(run.marks, key=lambda way: way != ("gradient", STRENGTH))
    return [
        (kind, way)
        for way in (*ways, (BEFORE, 0.0), (START, 0.0))
        for kind in run.pictures
        if way[0] != START or kind == GENERATED
    ]


def examples(model: LatentDiffusionModel, run: Run) -> list[tuple[np.ndarray, np.ndarray]]:
    """For the figure: the first two generated pictures and photographs, before and after the default marking."""
    out = []
    for kind in (GENERATED, PHOTOGRAPHS):
        for i in range(min(2, run.pictures[kind])):
            pixels = np.asarray(original(model, kind, i, run))
            verifier = verifiers(model, own_key(kind, i), run)("clean")
            out.append((pixels, mark(verifier, [pixels], rounds=run.rounds)[0].pixels))
    return out


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One picture of each kind and few steps.")
@click.option("--dtype", default="fp32", show_default=True, help="auto, fp32, bf16 or fp16.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, dtype: str, output: Path) -> None:
    """Measure how visible marks are that are written into pictures, and how surely they are found."""
    run = QUICK if quick else FULL
    model = LatentDiffusionModel.load("sapling", dtype=dtype)
    settings = asdict(run) | {
        "marks": [name_of(way) for way in run.marks],
        "conditions": list(run.conditions),
        "seed": SEED,
        "guidance": GUIDANCE,
        "fpr": FPR,
        "large": LARGE_SIDE,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quick": quick,
    }
    result = resume("marking", settings, output)
    records: Json = result.setdefault("records", {})
    wanted = [(kind, way, i) for kind, way in cells_of(run) for i in range(run.pictures[kind])]
    for kind, way, i in track(wanted, "marking", console=Console(stderr=True)):
        done = records.setdefault(f"{kind} | {name_of(way)}", [])
        if len(done) <= i:
            done.append(record_of(model, kind, i, way, run))
            write("marking", result, output)
    result["summary"] = summary(records, FPR)
    path = write("marking", result, output)
    draw(result, examples(model, run), path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
