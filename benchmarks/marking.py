"""Marks that are written into pictures that exist: how visible they are, and how surely found.

    python -m benchmarks.marking            132 pictures, six ways to mark, three hours on a core; resumes
    python -m benchmarks.marking --quick    one of each kind, few steps; a minute

Pictures that Sapling generated without a mark, one of each of its prompts, squares of photographs at the model's
own size, and larger squares, which are marked at the model's size and keep their detail. Each gets a key of its
own. ``gradient`` is the default, at several strengths (the correlation ρ asked for); ``sampling`` does without
gradients; none may go below 30 dB. *From the start* are pictures generated with the key, of the same prompts and
seeds.

Noise is recovered from what is written, by the encoder alone, and after JPEG 75 and the six attacks of Wen et al.
2023. It is tested as ``treering verify`` does, whitened; turned pictures at 72 angles, cropped ones in their place
and for shifts, and p is corrected for that. *Change copied* is another picture, of the same kind, to which the
difference of marked picture and original was added: that it is found is no success. False positives are counted
with keys that no picture carries, on all of this noise. The noise is kept: the analysis can be done anew.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.attacks import SIX
from benchmarks.kept import Arrays
from benchmarks.marking_noise import (
    CLEAN,
    DEFAULT,
    ENCODER,
    FACTS,
    FPR,
    GENERATED,
    LARGE,
    PHOTOGRAPHS,
    Run,
    name_of,
    original,
    own_key,
    recovered,
    source_of,
    verifier_of,
)
from benchmarks.marking_report import draw, readme_table, summary
from benchmarks.rates import tidy
from benchmarks.record import RESULTS, write
from inversion import LatentDiffusionModel
from watermark.features import Array
from watermark.keys import RingKey
from watermark.marking.mark import mark
from watermark.search import key_matrix, search_vectors
from watermark.transforms import Transform, plain_transforms, transforms_of

Json = dict[str, Any]

FULL = Run(
    quick=False,
    pictures={GENERATED: 96, PHOTOGRAPHS: 24, LARGE: 12},
    fewer={GENERATED: 32, PHOTOGRAPHS: 12, LARGE: 0},
    marks=(*(("gradient", strength) for strength in (0.12, 0.2, 0.35, 0.5, 0.65)), ("sampling", 0.3)),
    conditions=(CLEAN, ENCODER, "JPEG 75", *SIX),
    decoys=1000,
    generation=25,
    steps=10,
    rounds=8,
)
QUICK = Run(
    quick=True,
    pictures={GENERATED: 2, PHOTOGRAPHS: 1, LARGE: 1},
    fewer={GENERATED: 1, PHOTOGRAPHS: 1, LARGE: 0},
    marks=(("gradient", 0.2), ("gradient", 0.5), ("sampling", 0.3)),
    conditions=(CLEAN, ENCODER, "JPEG 25"),
    decoys=100,
    generation=3,
    steps=3,
    rounds=2,
)


def transforms_for(condition: str, shape: tuple[int, ...]) -> tuple[Transform, ...]:
    """What is looked at: by default, or what was done."""
    others = {"rotation 75°": transforms_of(72), "crop 0.75": transforms_of(shifts=5, crops=(0.75,))}
    return others.get(condition, plain_transforms(shape))


@lru_cache(maxsize=2)
def decoys(count: int, shape: tuple[int, ...]) -> Array:
    """Directions of keys that no picture carries."""
    return key_matrix([RingKey(number.to_bytes(32, "big")) for number in range(count)], (1, *shape))


def tested(
    z: NDArray[np.floating], key: RingKey, condition: str, whitening: Array | None, count: int
) -> tuple[float, float, int]:
    """P and ρ of noise (C, h, w) with a key, and how many decoys are found at the level."""
    own = key_matrix([key], (1, *z.shape))
    keys = np.concatenate([own, decoys(count, z.shape)])
    (match,) = search_vectors(
        z[None].astype(np.float64), own, key.pattern, transforms := transforms_for(condition, z.shape), whitening
    )
    (every,) = search_vectors(z[None].astype(np.float64), keys, key.pattern, transforms, whitening)
    return match.p_value, match.rho, int((every.per_key[1:] <= FPR).sum())


def analyse(model: LatentDiffusionModel, run: Run, found: Arrays) -> Json:
    """Every picture in every way: p and ρ under every condition, what it cost, and false positives."""
    out: Json = {}
    jobs = run.jobs()
    whitening = None
    calibration = verifier_of(model, own_key(GENERATED, 0), run).calibration
    if calibration is not None:
        whitening = calibration.whitening(own_key(GENERATED, 0).pattern)
    for kind, way, i in track(jobs, "testing", console=Console(stderr=True)):
        name = f"{kind} | {name_of(way)}"
        facts = dict(zip(FACTS, found[f"{name} | facts"][i].tolist(), strict=True))
        one: Json = (
            {}
            if np.isnan(facts["ssim"])
            else {
                "psnr": tidy(facts["psnr"]) if np.isfinite(facts["psnr"]) else None,
                "ssim": tidy(facts["ssim"]),
                "rounds": int(facts["rounds"]),
                "holds": bool(facts["holds"]),
            }
        )
        one |= {"unit": f"{kind} {i if kind == GENERATED else source_of(kind, i, model)}", "seen": {}}
        for condition in run.conditions_for(kind, way):
            z = found[f"{name} | {condition}"][i]
            p, rho, false = tested(
                z, own_key(kind, i), condition, None if condition == ENCODER else whitening, run.decoys
            )
            one["seen"][condition] = {"p": tidy(p), "rho": tidy(rho), "decoys found": false}
        out.setdefault(name, []).append(one)
    return out


def examples(model: LatentDiffusionModel, run: Run) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """For the figure: the first two generated pictures and photographs, before and after the default marking."""
    out = []
    for kind in (GENERATED, PHOTOGRAPHS):
        for i in range(min(2, run.pictures[kind])):
            pixels = original(model, kind, i, run)
            found = mark(
                verifier_of(model, own_key(kind, i), run), [pixels], strength=DEFAULT[1], rounds=run.rounds
            )
            out.append((pixels, found[0].pixels))
    return out


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One or two pictures of each kind and few steps.")
@click.option("--dtype", default="fp32", show_default=True, help="auto, fp32, bf16 or fp16.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, dtype: str, output: Path) -> None:
    """Measure how visible marks are that are written into pictures, and how surely they are found."""
    run = QUICK if quick else FULL
    model = LatentDiffusionModel.load("sapling", dtype=dtype)
    records = analyse(model, run, recovered(model, run, output))
    settings = run.settings(model) | {"fpr": FPR} | {k: asdict(run)[k] for k in ("pictures", "fewer", "decoys")}
    result = {"settings": settings, "records": records, "summary": summary(records, FPR, run.decoys, run.fewer)}
    path = write("marking", result, output)
    draw(result, examples(model, run), path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
