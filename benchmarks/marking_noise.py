"""The pictures of :mod:`benchmarks.marking`, marked, attacked, and the noise that is recovered from them then."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.attacks import ATTACKS, SIX
from benchmarks.kept import Arrays, decoder_inversion, described, digest_of, keep, kept, kept_file, made_of
from benchmarks.null_images import crop, photographs
from inversion import LatentDiffusionModel, sample
from inversion.embedded import data_folder
from watermark.generate import initial_noise, to_images
from watermark.keys import RingKey
from watermark.marking.attempts import NEAR
from watermark.marking.mark import MIN_PSNR, STRENGTH, mark
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import Picture
from watermark.verify import Verifier, calibration_file, with_calibration

GENERATED, PHOTOGRAPHS, LARGE = "generated", "photographs", "large photographs"
BEFORE, START = "before", "from the start"
CLEAN, ENCODER, COPIED = "clean", "encoder alone", "change copied"
SEED, GUIDANCE, LARGE_SIDE, FPR = 43, 3.0, 384, 1e-3
FACTS = ("psnr", "ssim", "rounds", "holds", "at bound")
BETWEEN_SAVES = 60
"""Seconds after which what was made is saved."""
DEFAULT = ("gradient", STRENGTH)

Way = tuple[str, float]
Job = tuple[str, Way, int]


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        pictures: how many of each kind, for the default way to mark.
        fewer: and for the others.
        marks: (method, strength) of every way to mark.
        conditions: what is done to marked pictures; ``clean`` first.
        decoys: keys that no picture carries, tried on all noise.
        generation: steps of generation.
        steps: of diffusion inversion.
        rounds: of marking, at most.
    """

    quick: bool
    pictures: dict[str, int]
    fewer: dict[str, int]
    marks: tuple[Way, ...]
    conditions: tuple[str, ...]
    decoys: int
    generation: int
    steps: int
    rounds: int

    def settings(self, model: LatentDiffusionModel) -> dict[str, Any]:
        """What noise depends on."""
        verifier = verifier_of(model, own_key(GENERATED, 0), self)
        own = {k: v for k, v in asdict(self).items() if k not in ("decoys", "pictures", "fewer", "marks")}
        return own | {
            "verifier": asdict(verifier.settings),
            "decoder inversion": decoder_inversion(verifier.decoder),
            "calibrated": verifier.calibration is not None,
            "near enough": NEAR,
            "conditions": [f"{c}: {described(ATTACKS[c])}" if c in ATTACKS else c for c in self.conditions],
            "seed": SEED,
            "guidance": GUIDANCE,
            "least PSNR": MIN_PSNR,
            "large": LARGE_SIDE,
            "dtype": str(model.dtype).removeprefix("torch."),
            **made_of(model.name),
            "fpr": FPR,
            "calibration": digest_of([file]) if (file := calibration_file(model)).is_file() else None,
        }

    def jobs(self) -> list[Job]:
        """Every picture, in every way: the default first, as it is what matters."""
        ways = sorted(self.marks, key=lambda way: way != DEFAULT)
        return [
            (kind, way, i)
            for way in (*ways, (BEFORE, 0.0), (START, 0.0))
            for kind in self.pictures
            if way[0] != START or kind == GENERATED
            for i in range(self.pictures[kind] if way == DEFAULT or not way[1] else self.fewer[kind])
        ]

    def conditions_for(self, kind: str, way: Way) -> tuple[str, ...]:
        """What is done to pictures of a kind. Attacks are for pictures of the model's size."""
        if way[0] == BEFORE:
            return (CLEAN,)
        if kind == LARGE:
            return tuple(c for c in self.conditions if c not in SIX)
        return (*self.conditions, COPIED) if way == DEFAULT else self.conditions


def name_of(way: Way) -> str:
    """A way of marking in words."""
    return f"{way[0]}, ρ = {way[1]:g}" if way[1] else way[0]


def own_key(kind: str, i: int) -> RingKey:
    """The key of a picture, the same every time."""
    return RingKey(hashlib.sha256(f"marking {kind} {i}".encode()).digest())


@lru_cache(maxsize=1)
def prompts() -> tuple[str, ...]:
    """Sapling's own, mixed, so that the first few are of all kinds."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    return tuple(np.random.default_rng(SEED).permutation(lines).tolist())


def generated(model: LatentDiffusionModel, i: int, key: RingKey | None, steps: int) -> Image.Image:
    """Picture i of Sapling, with a key or without, of the same noise elsewhere."""
    told = prompts()[i % len(prompts())]
    z = sample(model, initial_noise(model, key, SEED + i), prompt=told, guidance=GUIDANCE, steps=steps)
    return to_images(model.autoencoder.decode(z))[0]


def original(model: LatentDiffusionModel, kind: str, i: int, run: Run) -> NDArray[np.uint8]:
    """Picture i of a kind, without a mark, (H, W, 3)."""
    if kind == GENERATED:
        return np.asarray(generated(model, i, None, run.generation))
    sources, size = sources_of(kind, model), size_of(kind, model)
    found = crop(sources[source_of(kind, i, model)], size, np.random.default_rng([SEED, len(kind), i]))
    return np.asarray(found.convert("RGB"))


def size_of(kind: str, model: LatentDiffusionModel) -> tuple[int, int]:
    """(height, width) of photographs of a kind."""
    return model.image_size if kind == PHOTOGRAPHS else (LARGE_SIDE, LARGE_SIDE)


def sources_of(kind: str, model: LatentDiffusionModel) -> list[Image.Image]:
    """The photographs that are large enough."""
    return [source for source in photographs() if min(source.size) >= max(size_of(kind, model))]


def source_of(kind: str, i: int, model: LatentDiffusionModel) -> int:
    """The number, of those that are large enough, of the photograph that picture i is a part of."""
    return i % len(sources_of(kind, model))


def unit_of(kind: str, i: int, model: LatentDiffusionModel) -> str:
    """What a picture shares with no other: its number, or its photograph among all."""
    if kind == GENERATED:
        return f"generated {i}"
    source = sources_of(kind, model)[source_of(kind, i, model)]
    return f"photograph {next(n for n, one in enumerate(photographs()) if one is source)}"


def verifier_of(model: LatentDiffusionModel, key: RingKey, run: Run) -> Verifier:
    """The one that decides whether a mark holds: that of ``treering mark`` and ``treering verify --fpr 1e-3``.

    Raises:
        ValueError: if the model's calibration is for other settings than those of a full run.
    """
    found = with_calibration(Verifier(model, {"key": key}, fpr=FPR, steps=run.steps))
    if found.calibration is None and calibration_file(model).is_file() and not run.quick:
        raise ValueError("the model's calibration is for other settings: nothing would be whitened")
    return found


def treated(pixels: NDArray[np.uint8], condition: str, i: int) -> NDArray[np.uint8]:
    """Picture i after an attack, which meets the same chance however it was marked."""
    if condition not in ATTACKS:
        return pixels
    rng = np.random.default_rng([SEED, zlib.crc32(condition.encode()), i])
    return np.asarray(ATTACKS[condition](Image.fromarray(pixels), rng))


def recover(verifier: Verifier, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float16]:
    """Noise (B, C, h, w) of pictures of any size."""
    x = as_tensor([fit(Picture(p), verifier.model.image_size)[0] for p in pictures])
    parts = [verifier.recover_noise(part) for part in x.split(verifier.batch_size)]
    return np.concatenate([part.cpu().numpy() for part in parts]).astype(np.float16)


def made(model: LatentDiffusionModel, job: Job, run: Run) -> Arrays:
    """The facts about one marked picture, and its noise under every condition."""
    kind, way, i = job
    key = own_key(kind, i)
    verifier = verifier_of(model, key, run)
    facts = (np.nan,) * len(FACTS)
    if way[0] == START:
        pixels = np.asarray(generated(model, i, key, run.generation))
    else:
        before = pixels = original(model, kind, i, run)
        if way[0] != BEFORE:
            (found,) = mark(verifier, [before], strength=way[1], method=way[0], rounds=run.rounds)
            pixels, facts = found.pixels, (found.psnr, found.ssim, found.rounds, found.holds, found.at_bound)
    conditions = run.conditions_for(kind, way)
    seen = {c: treated(pixels, c, i) for c in conditions}
    if COPIED in seen:
        other = original(model, kind, i + 1, run)
        seen[COPIED] = (other.astype(np.int64) + pixels - before).clip(0, 255).astype(np.uint8)
    default = [c for c in conditions if c != ENCODER]
    noise = dict(zip(default, recover(verifier, [seen[c] for c in default]), strict=True))
    if ENCODER in seen:
        alone = replace(verifier, decoder="encoder", calibration=None)
        noise[ENCODER] = recover(alone, [seen[ENCODER]])[0]
    return {"facts": np.array(facts)} | noise


def recovered(model: LatentDiffusionModel, run: Run, folder: Path) -> Arrays:
    """``kind | way | facts`` or ``condition`` → arrays, a row a picture; what the folder has is not made again."""
    path = kept_file(folder, "marking", run.settings(model))
    found = kept(path)
    jobs = [job for job in run.jobs() if len(found.get(f"{job[0]} | {name_of(job[1])} | facts", ())) <= job[2]]
    saved = time.monotonic()
    for job in track(jobs, "marking", console=Console(stderr=True)):
        for name, row in made(model, job, run).items():
            whole = f"{job[0]} | {name_of(job[1])} | {name}"
            found[whole] = np.concatenate([found[whole], row[None]]) if whole in found else row[None]
        if time.monotonic() > saved + BETWEEN_SAVES:
            keep(path, found)
            saved = time.monotonic()
    if jobs:
        keep(path, found)
    return found
