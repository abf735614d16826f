"""Which of many keys does a picture carry? Four patterns under the attacks of RingID, with up to 10,000 keys.

    python -m benchmarks.identification            48 pictures of each kind, three hours on a core; resumes
    python -m benchmarks.identification --quick    2 of each, few keys, the encoder alone; a minute

Every pattern marks pictures of the same prompts and seeds, and every attack does the same to each of them. Each
attacked picture is inverted once, without prompt or key. The recovered noise is kept, so that without
``identification.json`` the analysis is done anew, but no picture is.

A picture is *identified* if its key has the smallest p of a family of N keys, and *verified* if that p is at most
1e-6 besides, corrected for all keys and transformations. Both are measured with the noise as it is, and searched
through mirrorings, angles and crops. Pictures without a mark say how often any key is found where there is none.

Beside our patterns stand the rings of Wen et al. 2023 (https://arxiv.org/abs/2305.20030), complex values in one
channel that replace those of the noise: ten of them up to 10 cycles across the picture, as there; half the
radius, in proportion to the latent, would hold half the values. They are told apart by the smallest L1 distance, as
there, and by our statistic, whose p takes the noise to be white for such keys.

Published figures are those of Ci et al. 2024 (https://arxiv.org/abs/2404.14055) for Stable Diffusion 2.1. Their
code averages over clean pictures and the six attacks together, and crops the width alone: so does the average "as
published" here, while that over "six attacks" has square crops and no clean pictures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.attacks import SIX
from benchmarks.identification_keys import KINDS, OURS, TESTS, Keys, all_keys, our_key
from benchmarks.identification_noise import CONDITIONS, SEED, Run, in_plan, recovered
from benchmarks.identification_report import draw, readme_table
from benchmarks.record import RESULTS, rate, resume, write
from inversion import LatentDiffusionModel
from watermark.features import Array
from watermark.transforms import IDENTITY, Transform, transforms_of, wide_transforms
from watermark.verify import Verifier

AVERAGES = {
    "six attacks": SIX,
    "as published": ("clean", *("crop of the width" if name == "crop 0.75" else name for name in SIX)),
}
SEARCHES = ("as it is", "searched")
LEVEL = 1e-6
Cell = dict[str, Any]


FULL = Run(False, 48, 25, "shrinkage", 10, (32, 128, 2048, 10_000))
QUICK = Run(True, 2, 4, "encoder", 2, (32, 128))


def place(
    keys: Keys, z: Array, own: int, transforms: Sequence[Transform], families: Sequence[int]
) -> list[tuple[bool, float]]:
    """For every family size, whether key ``own`` comes first in noise (1, C, h, w), and the least misfit times N.

    A family of N keys is ``own`` and the N − 1 that follow. Keys that tie, as those of ``levels`` may, are compared
    among themselves; what ties then, too, is drawn by lot.
    """
    misfit, _ = keys.test(z, transforms)
    out = []
    for size in families:
        family = (own + np.arange(size)) % len(misfit)
        least = misfit[family].min()
        tied = family[misfit[family] == least]
        first = tied[0]
        if len(tied) > 1 and own in tied:
            lots = np.random.default_rng([SEED, own, size]).permutation(tied)
            first = lots[keys.test(z, transforms, lots)[1]]
        out.append((bool(first == own), float(size * least)))
    return out


def measure(keys: Keys, noise: Array, transforms: Sequence[Transform], families: Sequence[int]) -> Cell:
    """For every family size a digit a picture of noise (B, C, h, w): identified; found at the level; and both."""
    placed = [place(keys, noise[i : i + 1], i, transforms, families) for i in range(len(noise))]
    out = {}
    for size, each in zip(families, zip(*placed, strict=True), strict=True):
        right, found = np.array([r for r, _ in each]), np.array([p <= LEVEL for _, p in each])
        out[str(size)] = {
            name: "".join("01"[int(hit)] for hit in hits)
            for name, hits in (("identified", right), ("found", found), ("verified", right & found))
        }
    return out


def plan() -> list[tuple[str, str, str, str]]:
    """(kind of picture, condition, test, search) of everything that is analysed."""
    tests = {kind: (kind,) for kind in OURS} | {"tree-ring": TESTS[3:], "unmarked": TESTS[:4]}
    return [
        (kind, condition, test, search)
        for kind in KINDS
        for condition in CONDITIONS
        for test in tests[kind]
        for search in SEARCHES
        if in_plan(kind, condition) and (test, search) != ("tree-ring, L1", "searched")
    ]


def digits(cells: dict[str, Cell], kind: str, cell: tuple[str, str, str], size: int, what: str) -> Array:
    """(pictures,) of 0 and 1 for a cell (condition, test, search)."""
    return np.array([int(c) for c in cells[" | ".join((kind, *cell))][str(size)][what]], dtype=np.float64)


def kind_of(test: str) -> str:
    """The pictures that carry the keys of a test."""
    return test.removesuffix(", L1")


def summary(cells: dict[str, Cell], families: Sequence[int]) -> dict[str, Any]:
    """Rates of every test under every condition, averages over conditions, and what is found where nothing is."""
    rates: dict[str, Any] = {}
    averages: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    rows = [(t, s, n) for t in TESTS for s in SEARCHES for n in families if (t, s) != ("tree-ring, L1", "searched")]
    for test, search, size in rows:
        name = f"{test} | {search} | {size}"
        for what in ("identified", "verified"):
            if test == "tree-ring, L1" and what == "verified":
                continue
            hits = {c: digits(cells, kind_of(test), (c, test, search), size, what) for c in CONDITIONS}
            rates.setdefault(name, {})[what] = {c: rate(int(h.sum()), len(h)) for c, h in hits.items()}
            averages.setdefault(name, {})[what] = {
                label: bootstrap(np.mean([hits[c] for c in conditions], axis=0))
                for label, conditions in AVERAGES.items()
            }
        if test != "tree-ring, L1":
            found = [digits(cells, "unmarked", (c, test, search), size, "found") for c in ("clean", *SIX)]
            nulls[name] = {
                "clean": rate(int(found[0].sum()), len(found[0])),
                "clean or attacked": rate(int(np.max(found, axis=0).sum()), len(found[0])),
            }
    return {"rates": rates, "averages": averages, "unmarked": nulls}


def bootstrap(values: Array) -> dict[str, Any]:
    """The mean over pictures (B,), with a 95 % percentile interval of 10,000 resamplings of them.

    Where all are 0 or all are 1 resampling says nothing. There the other end is the largest, or smallest, mean of
    which so many pictures without an exception are likely enough.
    """
    rows = np.random.default_rng(SEED).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(values[rows].mean(1), (0.025, 0.975))
    exact = 0.025 ** (1 / len(values))
    low, high = (exact if low == 1 else low), (1 - exact if high == 0 else high)
    return {"mean": float(values.mean()), "ci95": [float(low), float(high)]}


def speed(model: LatentDiffusionModel, run: Run, keys: Keys, noise: Array) -> dict[str, float]:
    """How long the search of 36 angles takes, as a multiple of recovering the noise, one picture, in turns."""
    transforms = transforms_of(36)
    verifier = Verifier(model, {"any": our_key(0, "dense")}, steps=run.inversion_steps, decoder=run.decoder)
    x = model.autoencoder.decode(torch.from_numpy(noise[:1]).float())
    parts = {"recovery": lambda: verifier.recover_noise(x), "search": lambda: keys.test(noise[:1], transforms)}
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(1 if run.quick else 7):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "angles": len(transforms),
        "search of one picture, in recoveries": median["search"] / median["recovery"],
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="2 pictures of each kind, few keys and the encoder alone.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure identification among many keys on Sapling."""
    run = QUICK if quick else FULL
    model = LatentDiffusionModel.load("sapling", dtype="fp32")
    transforms = {"as it is": IDENTITY, "searched": wide_transforms(model.latent_shape)}
    searched = {"transformations": len(transforms["searched"]), "keys": list(run.families)}
    result = {"cells": {}} | resume("identification", run.settings(model) | searched, output)
    noise = recovered(model, run, output)
    channels, height, width = model.latent_shape
    keys = all_keys(max(run.families), (channels, height, width))
    for kind, condition, test, search in track(plan(), "searching", console=Console(stderr=True)):
        name = " | ".join((kind, condition, test, search))
        if name not in result["cells"]:
            z = noise[f"{kind} | {condition}"]
            result["cells"][name] = measure(keys[test], z, transforms[search], run.families)
            write("identification", result, output)
    if "speed" not in result:
        result["speed"] = speed(model, run, keys["dense"], noise["dense | clean"])
    result |= summary(result["cells"], run.families)
    path = write("identification", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
