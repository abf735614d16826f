"""What :mod:`benchmarks.marking` counts: rates, medians, false positives, and pairs of ways to mark."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from benchmarks.attacks import SIX
from benchmarks.marking_noise import DEFAULT, START, Run, name_of
from benchmarks.pairs import compared
from benchmarks.rates import interval, per_key, tidy
from benchmarks.record import rate
from watermark.marking.attempts import NEAR
from watermark.search import holm

Json = dict[str, Any]

BAR = 30.0
"""PSNR, in dB, that marks are to keep."""
VERDICT = 1e-6
"""The level of a verdict by default."""
PLAIN = "clean, not whitened"
WIDE = "wide search"
SEARCHES = ("default search", WIDE)


def wide(condition: str) -> str:
    """What a condition is called where it is looked at as with ``--wide``."""
    return f"{condition}, {WIDE}"


def summary(records: Json, fpr: float, run: Run) -> Json:
    """Rates and medians of every kind of picture and way of marking; false positives of every condition.

    ``frontier`` is of the first pictures of every kind, ``run.fewer``, which all ways to mark have. ``bar`` counts
    pictures that are found with a PSNR of 30 dB at least, ``held bar`` those with that verdict, ``at the bound``
    those whose PSNR left no room for more, and ``out of rounds`` those that had not what was asked for after the
    last one. False positives are of so many keys that no picture carries, with intervals over pictures.
    """
    cells = {name: cell_of(pictures, fpr, run.rounds, name) for name, pictures in records.items()}
    few = {name: pictures[: run.fewer[name.partition(" | ")[0]]] for name, pictures in records.items()}
    frontier = {name: cell_of(pictures, fpr, run.rounds, name) for name, pictures in few.items() if pictures}
    return {"cells": cells, "frontier": frontier, "false": false_positives(records, fpr, run.decoys)} | {
        "paired": paired(records, fpr)
    }


def false_positives(records: Json, fpr: float, decoys: int) -> Json:
    """How often keys that no picture carries are found, on average and each on its own, by condition."""
    every: dict[str, list[tuple[str, list[int]]]] = {}
    for pictures in records.values():
        for picture in pictures:
            for condition, seen in picture["seen"].items():
                every.setdefault(condition, []).append((picture["unit"], seen["decoys found"]))
    out = {}
    for condition, found in every.items():
        units = np.array([zlib.crc32(unit.encode()) for unit, _ in found])
        hit = np.zeros((len(found), decoys), dtype=bool)
        for i, (_, numbers) in enumerate(found):
            hit[i, numbers] = True
        mean, both, _ = interval(hit.mean(1, keepdims=True), units)
        keys = per_key(hit, units, fpr)
        out[condition] = {
            "rate": tidy(mean[0]),
            "ci95": tidy(both[:, 0]),
            "tests": hit.size,
            "worst key": keys["worst"],
            "keys above": keys["above"],
        }
    return out


def cell_of(pictures: list[Json], fpr: float, rounds: int, name: str) -> Json:
    """Rates and medians of one kind of picture and way of marking."""
    found = {
        condition: {
            "found": rate(sum(p["seen"][condition]["p"] <= fpr for p in pictures), len(pictures)),
            f"found at {VERDICT:g}": rate(
                sum(p["seen"][condition]["p"] <= VERDICT for p in pictures), len(pictures)
            ),
            "rho median": tidy(np.median([p["seen"][condition]["rho"] for p in pictures])),
            "p median": tidy(np.median([p["seen"][condition]["p"] for p in pictures])),
        }
        for condition in pictures[0]["seen"]
    }
    out: Json = {"conditions": found}
    for search in SEARCHES:
        if attacks_in(pictures[0], search):
            shares = np.array([left_over(p, search, fpr) for p in pictures])[:, None]
            units = np.array([zlib.crc32(p["unit"].encode()) for p in pictures])
            mean, both, _ = interval(shares, units)
            out[f"six attacks, {search}"] = {"mean": tidy(mean[0]), "ci95": tidy(both[:, 0])}
    if "ssim" in pictures[0]:
        psnr = [np.inf if p["psnr"] is None else p["psnr"] for p in pictures]
        kept = [db >= BAR - 1e-6 for db in psnr]
        met = [p["seen"]["clean"]["p"] <= fpr and fine for p, fine in zip(pictures, kept, strict=True)]
        held = [p["holds"] and fine for p, fine in zip(pictures, kept, strict=True)]
        short = [p["seen"]["clean"]["rho"] < float(name.rpartition("=")[2]) - 2 * NEAR for p in pictures]
        out |= {
            "psnr median": tidy(np.median(psnr)),
            "psnr least": tidy(min(psnr)),
            "ssim median": tidy(np.median([p["ssim"] for p in pictures])),
            "rounds mean": tidy(np.mean([p["rounds"] for p in pictures])),
            "bar": rate(sum(met), len(met)),
            "held bar": rate(sum(held), len(held)),
            "at the bound": sum(p["at bound"] for p in pictures),
            "out of rounds": sum(
                less and not p["at bound"] and p["rounds"] >= rounds
                for p, less in zip(pictures, short, strict=True)
            ),
        }
    return out


def attacks_in(picture: Json, search: str) -> list[str]:
    """Under which names the six attacks were looked at by a search, as far as they were made."""
    names = [wide(name) if search == WIDE else name for name in SIX]
    return [name for name in names if name in picture["seen"]]


def left_over(picture: Json, search: str, fpr: float) -> float:
    """The share of the six attacks after which a picture's key is found."""
    return float(np.mean([picture["seen"][name]["p"] <= fpr for name in attacks_in(picture, search)]))


def paired(records: Json, fpr: float) -> Json:
    """Comparisons of ways to mark on generated pictures, picture by picture: PSNR, and what six attacks leave."""
    sampled = next(name for name in records if name.startswith("generated | sampling"))
    alike = sampled.replace("sampling", "gradient")
    out: Json = {}
    if alike in records:
        a, b = ([p["psnr"] for p in records[name]] for name in (alike, sampled))
        pairs = [(x, y) for x, y in zip(a, b, strict=False) if x is not None and y is not None]
        out[f"PSNR, {alike} less {sampled}"] = compared(*np.array(pairs).T.tolist()) if pairs else None
    default, start = (f"generated | {name}" for name in (name_of(DEFAULT), START))
    for search in SEARCHES:
        both = list(zip(records[default], records[start], strict=True))
        if attacks_in(both[0][0], search):
            shares = [[left_over(p, search, fpr) for p in pair] for pair in both]
            out[f"six attacks, {search}, {default} less {start}"] = compared(*np.array(shares).T.tolist())
    made = [pair for pair in out.values() if pair is not None]
    for pair, p in zip(made, holm(np.array([pair["wilcoxon p"] for pair in made])).tolist(), strict=True):
        pair["Holm p"] = tidy(p)
    return out
