"""Do the p-values hold for one key used for years, and is the test as strong as one can be? On Sapling.

    python -m benchmarks.calibration            3,300 null pictures, 70 minutes on two cores; resumes
    python -m benchmarks.calibration --quick    4 of each family, few keys, the encoder alone; under a minute

Null pictures are of four families: generated ones without a mark; generated ones that carry dense keys of their
own, which play no other part; crops of 21 photographs that come with scikit-learn, matplotlib and scikit-image
(install ``.[bench]``); and drawn ones. A fifth, white noise that never was a picture, shows what the tests do
where all their assumptions hold. Crops of one photograph are not independent: intervals of that family are over
photographs, and the two halves of the calibration share none. Nothing is downloaded. The recovered noise is kept
in ``calibration.npz``, so that the analysis can be done anew; ``calibration.safetensors`` is the calibration made
of a share of it.

Every key is tried on every picture. *Per key* images are counted, with Clopper–Pearson intervals. *Averaged over
keys* the unit is still the image, or the photograph, and what is averaged its share of keys that are found. Pairs
of image and key are not independent, and are never counted as if they were. Whitening, and counts for keys whose p
takes the noise to be white, come from the other half of the images.

Beside our tests stand those in use: the noncentral chi-square p of Wen et al. 2023
(https://arxiv.org/abs/2305.20030), with twice as many degrees of freedom as there are masked bins, and the
variance of these very bins; an L1 threshold, set for every key on unmarked pictures; and t on bins for keys of
rings, which takes the number of bins for that of independent values.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from scipy import optimize, stats

from benchmarks.calibration_report import draw, readme_table
from benchmarks.record import RESULTS, rate, write
from inversion import LatentDiffusionModel, sample
from inversion.fingerprint import fingerprint
from inversion.model import data_folder
from watermark.calibration import Calibration
from watermark.demo import jpeg
from watermark.detection import TINY, angle_test, detect, scale_of
from watermark.features import Array, key_spectrum, key_vector, noise_vector
from watermark.foreign import ArrayKey, conjugate_bins, constant_ring_key, coordinates, tree_ring_key
from watermark.generate import initial_noise, to_images
from watermark.images import from_image, why_inconclusive
from watermark.keys import Pattern, RingKey
from watermark.rings import rings_for
from watermark.search import IDENTITY, Transform, key_matrix, plain_transforms, search_vectors, views
from watermark.verify import Verifier

Rows = NDArray[np.int64]
Json = dict[str, Any]

FAMILIES = ("unmarked", "another key", "photographs", "synthetic")
WHITE = "white noise"
PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png"),
            *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
            *("moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
        )
    ),
}
"""What comes with packages and is a photograph, through a microscope or telescope, too; ten of them are grey."""

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
BAR = 1e-3
SURE = 5e-4
"""Of error in one cell, so that it is 0.05 in the hundred or so of all tests and families."""
POWER_LEVELS = (1e-3, 1e-6)
RHO = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
PROBABILITIES = np.logspace(-5, 0, 21)
"""At which quantiles of p are kept."""

SEED, GUIDANCE, BATCH, CHUNK, RESAMPLINGS = 17, 3.0, 8, 96, 10_000
OURS = ("dense", "rings", "levels")


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        counts: null pictures of every family.
        shipped: how many of them, the first ones, make the calibration; multiples of 4, so that its halves split
            every family evenly.
        also: how many of the marked pictures are recovered in other ways, too.
        steps: of generation.
        keys: of every kind.
        power_keys: of the power curves.
        white: samples of white noise that t is tried on, at its own coordinates; the power curves meet a hundredth
            of them.
    """

    quick: bool
    counts: tuple[int, ...]
    shipped: tuple[int, ...]
    also: int
    steps: int
    decoder: str
    inversion_steps: int
    keys: int
    power_keys: int
    white: int

    @property
    def noise_settings(self) -> Json:
        """What the recovered noise depends on."""
        return {
            "pictures": dict(zip(FAMILIES, self.counts, strict=True)),
            "marked pictures in other ways": self.also,
            "seed": SEED,
            "quick": self.quick,
            "steps of generation": self.steps,
            "guidance": GUIDANCE,
            "decoder": self.decoder,
            "steps of inversion": self.inversion_steps,
        }


FULL = Run(False, (1000, 1000, 1000, 300), (300, 300, 300, 100), 128, 25, "anderson", 10, 200, 8, 2_000_000)
QUICK = Run(True, (4, 4, 4, 4), (4, 4, 4, 4), 2, 4, "encoder", 2, 5, 2, 20_000)


# Pictures


def secret_key(purpose: str, number: int, kind: str = "dense") -> RingKey:
    """The key of a number for a purpose, the same every time."""
    return RingKey(hashlib.sha256(f"calibration {purpose} {number}".encode()).digest(), Pattern(kind))


def generated(model: LatentDiffusionModel, family: str, rows: range, run: Run) -> list[Image.Image]:
    """Pictures of the model, those of ``another key`` with keys of their own."""
    prompts = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    marked = family == "another key"
    noise = torch.cat(
        [initial_noise(model, secret_key("own", i) if marked else None, 10**6 * (1 + marked) + i) for i in rows]
    )
    images = []
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // BATCH)):
        chosen = [prompts[rows[i] % len(prompts)] for i in part]
        z = sample(model, noise[part], prompt=chosen, guidance=GUIDANCE, steps=run.steps)
        images += to_images(model.autoencoder.decode(z))
    return images


@lru_cache(maxsize=1)
def photographs() -> list[Image.Image]:
    """All photographs.

    Raises:
        ModuleNotFoundError: if a package is missing.
        FileNotFoundError: if another version of a package does not hold them.
    """
    found: list[Image.Image] = []
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            with files(package).joinpath(name).open("rb") as file:
                image = Image.open(file)
                image.load()
                found.append(image)
    return found


def photograph_of(i: int, total: int) -> int:
    """Which of all photographs crop i is from: in turn, those of one half of a calibration not in the other."""
    half = i // 2 % 2
    members = range(half, total, 2)
    return members[(i // 4 * 2 + i % 2) % len(members)]


def crop(source: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A square of a photograph, (height, width) at least, whole at most, that a verifier would not call flat."""
    while True:
        side = round(float(np.exp(rng.uniform(np.log(max(size)), np.log(min(source.size))))))
        left, top = (int(rng.integers(0, n - side + 1)) for n in source.size)
        image = source.crop((left, top, left + side, top + side)).resize(size[::-1], Image.Resampling.LANCZOS)
        if why_inconclusive(from_image(image), size) is None:
            return image


def drawn(i: int, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A gradient, stripes, a checkerboard, text, uniform noise, or a shape on a flat colour; one after another."""
    height, width = size
    first, second = rng.choice(256, (2, 3), replace=False)
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(6, 48)
    along = np.cos(angle) * x + np.sin(angle) * y
    colours = tuple(map(int, first)), tuple(map(int, second))
    image = Image.new("RGB", (width, height), colours[0])
    pen, kind = ImageDraw.Draw(image), i % 6
    if kind == 3:
        words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(60)]
        lines = "\n".join(" ".join(words[j : j + 4]) for j in range(0, 60, 4))
        pen.multiline_text((4, 4), lines, colours[1], ImageFont.load_default(float(rng.uniform(9, 20))))
    elif kind == 4:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    elif kind == 5:
        left, top = (int(rng.integers(0, n // 2)) for n in (width, height))
        box = (left, top, left + int(rng.integers(16, width // 2)), top + int(rng.integers(16, height // 2)))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(box, colours[1])
    else:
        share = (
            (along - along.min()) / (along.max() - along.min()),
            along // period % 2,
            (x // period + y // period) % 2,
        )[kind]
        mixed = first + share[..., None] * (second.astype(np.float64) - first)
        image = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return image


def pictures(model: LatentDiffusionModel, family: str, rows: range, run: Run) -> list[Image.Image]:
    """Null pictures at some positions of a family; each depends on its position alone."""
    if family in ("unmarked", "another key"):
        return generated(model, family, rows, run)
    if family == "photographs":
        sources = photographs()
        return [
            crop(sources[photograph_of(i, len(sources))], model.image_size, np.random.default_rng([SEED, 1, i]))
            for i in rows
        ]
    return [drawn(i, model.image_size, np.random.default_rng([SEED, 2, i])) for i in rows]


# Recovered noise


def verifier_of(model: LatentDiffusionModel, run: Run, decoder: str | None = None) -> Verifier:
    """The verifier that recovers noise; its key plays no part."""
    chosen = run.decoder if decoder is None else decoder
    keys = {"any": secret_key("any", 0)}
    return Verifier(model, keys, steps=run.inversion_steps, decoder=chosen, batch_size=BATCH, transforms=IDENTITY)


def noise_of(verifier: Verifier, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Recovered noise (B, C, h, w).

    Raises:
        ValueError: if a picture could not be tested.
    """
    found = [examined.noise for examined in verifier.examine(images)]
    noise = np.stack([np.full(verifier.model.latent_shape, np.nan) if z is None else z.numpy() for z in found])
    if not np.isfinite(noise).all():
        raise ValueError("the noise of a null picture could not be recovered")
    return noise.astype(np.float32)


def recovered(model: LatentDiffusionModel, run: Run, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Noise (B, C, h, w) of every family, and of marked pictures in other ways, as far as the folder lacks it."""
    path = folder / "calibration.npz"
    settings = json.dumps(run.noise_settings)
    noise: dict[str, Any] = {}
    if path.exists():
        with np.load(path) as saved:
            noise = dict(saved) if str(saved["settings"]) == settings else {}
    noise["settings"] = np.array(settings)
    ways: dict[str, tuple[Verifier, Callable[[Image.Image], Image.Image]]] = {
        "encoder alone": (verifier_of(model, run, "encoder"), lambda image: image),
        "JPEG 75": (verifier_of(model, run), jpeg),
        "JPEG 75, encoder alone": (verifier_of(model, run, "encoder"), jpeg),
    }
    counts = zip(FAMILIES, run.counts, strict=True)
    plan = [(f, range(i, min(i + CHUNK, n))) for f, n in counts for i in range(len(noise.get(f, ())), n, CHUNK)]
    if any(family == "photographs" for family, _ in plan):
        photographs()  # if any are missing, better now than after an hour

    def add(name: str, verifier: Verifier, images: Sequence[Image.Image]) -> None:
        if images:
            z = noise_of(verifier, images)
            noise[name] = np.concatenate([noise[name], z]) if name in noise else z

    for family, rows in track(plan, "recovering noise", console=Console(stderr=True)):
        images = pictures(model, family, rows, run)
        add(family, verifier_of(model, run), images)
        if family == "another key":
            for way, (verifier, treat) in ways.items():
                add(f"{family} | {way}", verifier, [treat(image) for image in images[: max(run.also - rows[0], 0)]])
        folder.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_suffix(".part.npz")
        np.savez(partial_file, **noise)
        partial_file.replace(path)
    return {name: values for name, values in noise.items() if name != "settings"}


def to_ship(noise: Mapping[str, NDArray[np.float32]], verifier: Verifier, run: Run) -> Calibration:
    """A calibration of a share of every family, in fours that are spread evenly."""
    order = sorted(((i // 4 * 4 + 2) / count, f, i) for f, count in enumerate(run.shipped) for i in range(count))
    return Calibration(
        settings=verifier.settings,
        fingerprint=fingerprint(verifier.model),
        noise=np.stack([noise[FAMILIES[f]][i] for _, f, i in order]).astype(np.float16),
        families=tuple(FAMILIES[f] for _, f, _ in order),
    )


# Null noise and the tests on it


@dataclass(frozen=True)
class Nulls:
    """Null noise of all families.

    Attributes:
        noise: (n, C, h, w), the images before the white noise.
        families: (n,) family of each.
        units: (n,) what is independent of each other within a family: images, or photographs.
        images: whitening and counts are of these, all but the white noise.
    """

    noise: Array
    families: NDArray[np.str_]
    units: Rows
    images: Calibration

    def of(self, family: str) -> Rows:
        """Positions of a family."""
        return np.flatnonzero(self.families == family)


@dataclass(frozen=True)
class Test:
    """P of every null and key, (n, K), NaN where it is not tried; none can be below ``smallest``."""

    name: str
    p: Array
    smallest: float = 0.0


def nulls_of(noise: Mapping[str, NDArray[np.float32]], verifier: Verifier, run: Run) -> Nulls:
    """The recovered noise, with white noise behind it."""
    shape = verifier.model.latent_shape
    white = np.random.default_rng(SEED).standard_normal((max(run.counts), *shape))
    parts = [*(noise[f].astype(np.float64) for f in FAMILIES), white]
    names = [name for name, part in zip((*FAMILIES, WHITE), parts, strict=True) for _ in part]
    total = sum(map(len, PHOTOGRAPHS.values()))
    units = [
        [photograph_of(i, total) for i in range(len(part))] if name == "photographs" else np.arange(len(part))
        for name, part in zip((*FAMILIES, WHITE), parts, strict=True)
    ]
    images = np.concatenate(parts[:-1]).astype(np.float16)
    calibration = Calibration(verifier.settings, fingerprint(verifier.model), images, tuple(names[: len(images)]))
    return Nulls(np.concatenate(parts), np.array(names), np.concatenate(units), calibration)


def their_keys(kind: str, count: int, shape: tuple[int, ...]) -> list[ArrayKey]:
    """Keys of tree-ring code, the defaults there, or the four of constant rings, in proportion to the latent."""
    square = (shape[0], shape[1], shape[2])
    if kind == "tree-ring":
        return [tree_ring_key(seed, square, pattern="ring", channel=3, radius=10) for seed in range(count)]
    level = 80 * shape[-1] / 64
    return [constant_ring_key(number, square, level=level) for number in range(min(count, 4))]


def tests(nulls: Nulls, run: Run) -> Iterator[Test]:
    """All tests; names are keys | how | where."""
    shape = nulls.noise.shape[1:]
    places = {"alone": IDENTITY, "searched": plain_transforms(shape)}
    for kind in OURS:
        pattern = Pattern(kind)
        directions = key_matrix([secret_key("tested", i, kind) for i in range(run.keys)], (1, *shape))
        halves = [(own, nulls.images.whitening(pattern, other)) for own, other in nulls.images.halves()]
        scales: dict[str, list[tuple[Rows, Array | None]]] = {
            "as it is": [(np.arange(len(nulls.noise)), None)],
            "whitened": [(own, scale) for own, scale in halves],
        }
        for how, parts in scales.items():
            for where, transforms in places.items():
                yield Test(f"{kind} | {how} | {where}", our_p(nulls.noise, directions, pattern, transforms, parts))
    halves_of_images = list(nulls.images.halves())
    smallest = 1 / (1 + min(len(other) for _, other in halves_of_images))
    zeros = detect(nulls.noise, secret_key("tested", 0, "zeros")).p_value[:, None]
    yield Test("zeros | as it is | alone", zeros)
    yield Test("zeros | counted | alone", counted(zeros, halves_of_images), smallest)
    for kind in ("tree-ring", "constant rings"):
        keys = their_keys(kind, run.keys, shape)
        for where, transforms in places.items():
            p = their_p(nulls.noise, keys, transforms)
            yield Test(f"{kind} | as it is | {where}", p)
            yield Test(f"{kind} | counted | {where}", counted(p, halves_of_images), smallest)
    yield from usual_tests(nulls, run)


def our_p(
    noise: Array,
    directions: Array,
    pattern: Pattern,
    transforms: Sequence[Transform],
    parts: Sequence[tuple[Rows, Array | None]],
) -> Array:
    """P (n, K) of keys (K, d) as the library has it, corrected for transformations; parts have their whitening."""
    p = np.full((len(noise), len(directions)), np.nan)
    for rows, whitening in parts:
        for chunk in np.array_split(rows, -(-len(rows) // CHUNK)):
            matches = search_vectors(noise[chunk], directions, pattern, transforms, whitening)
            p[chunk] = [match.per_key for match in matches]
    return p


def their_p(noise: Array, keys: Sequence[ArrayKey], transforms: Sequence[Transform]) -> Array:
    """P (n, K) of :func:`watermark.foreign.detect_array`, times the transformations; the keys have one mask."""
    where = keys[0].mask | conjugate_bins(keys[0].mask.astype(np.complex128)).real.astype(bool)
    flat = np.arange(where[0].size).reshape(where.shape[1:])
    twin = np.roll(flat[::-1, ::-1], 1, axis=(0, 1))
    pairs, own = where & (flat < twin), where & (flat == twin)
    k = coordinates(np.stack([key.mark for key in keys]), pairs, own)
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    cosine = np.full((len(noise), len(keys)), -np.inf)
    for view in views(noise, transforms):
        y = coordinates(np.fft.fft2(view), pairs, own)
        cosine = np.maximum(cosine, (y / np.linalg.norm(y, axis=1, keepdims=True)) @ k.T)
    return np.minimum(1.0, len(transforms) * np.maximum(angle_test(cosine, k.shape[1])[1], TINY))


def counted(score: Array, parts: Sequence[tuple[Rows, Rows]]) -> Array:
    """(1 + how many nulls score as low) / (1 + nulls), of scores (n, K), for parts (own, nulls)."""
    p = np.full(score.shape, np.nan)
    for own, other in parts:
        for k in range(score.shape[1]):
            hits = np.searchsorted(np.sort(score[other, k]), score[own, k], side="right")
            p[own, k] = (1 + hits) / (1 + len(other))
    return p


def usual_tests(nulls: Nulls, run: Run) -> Iterator[Test]:
    """The recipes in use, on the same noise."""
    shape = nulls.noise.shape[1:]
    unmarked = nulls.of("unmarked")
    elsewhere = np.setdiff1d(np.arange(len(nulls.noise)), unmarked)
    for kind in ("tree-ring", "constant rings", "dense"):
        if kind == "dense":
            values, mask = dense_values([secret_key("tested", i) for i in range(run.keys)], shape)
        else:
            keys = their_keys(kind, run.keys, shape)
            mask = keys[0].mask
            values = np.stack([key.values[mask] for key in keys])
        bins = np.fft.fft2(nulls.noise)[:, mask]
        yield Test(f"{kind} | chi-square | alone", chi_square(bins, values))
        distance = np.stack([np.abs(bins - value).mean(1) for value in values], axis=1)
        p = counted(distance, [(elsewhere, unmarked)])
        ranks = stats.rankdata(distance[unmarked], method="max", axis=0)
        p[unmarked] = ranks / len(unmarked)  # (1 + how many others are as near) / n
        yield Test(f"{kind} | L1, set on unmarked | alone", p, 1 / (1 + len(unmarked)))
    pattern = Pattern("rings")
    y, energy = noise_vector(nulls.noise, pattern)
    directions = key_matrix([secret_key("tested", i, "rings") for i in range(run.keys)], (1, *shape))
    cosine = y @ directions.T / np.sqrt(energy)[:, None]
    yield Test("rings | t on bins | alone", angle_test(cosine, bins_of(shape, pattern))[1])


def bins_of(shape: tuple[int, ...], pattern: Pattern) -> int:
    """M, the number of marked bins of latents (C, h, w)."""
    rings = rings_for(shape, pattern)
    return len(rings.channels) * int(rings.bins.sum())


def dense_values(
    keys: Sequence[RingKey], shape: tuple[int, ...]
) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """What dense keys write into ``fft2``, (K, M), and where, (C, h, w)."""
    rings = rings_for(shape, keys[0].pattern)
    mask = np.zeros(shape, dtype=bool)
    mask[list(rings.channels)] = rings.index >= 0
    inside = mask[list(rings.channels)]
    scale = np.sqrt(shape[-2] * shape[-1])
    return np.stack([key_spectrum(key, (1, *shape))[inside] * scale for key in keys]), mask


def chi_square(bins: NDArray[np.complex128], values: NDArray[np.complex128]) -> Array:
    """P (n, K) of Wen et al. 2023 for masked bins (n, M) and keys (K, M), as its code has it."""
    y, k = (np.concatenate([a.real, a.imag], axis=1) for a in (bins, values))
    variance = y.var(1, ddof=1)[:, None]
    size = (k**2).sum(1) / variance
    x = ((y**2).sum(1)[:, None] - 2 * y @ k.T) / variance + size
    p: Array = stats.ncx2.cdf(x, y.shape[1], size)
    return p


# Rates


@lru_cache(maxsize=8)
def resampled(units: int) -> Array:
    """(resamplings, units) how often each is drawn."""
    return np.random.default_rng(SEED).multinomial(units, np.full(units, 1 / units), RESAMPLINGS).astype(np.float64)


def interval(shares: Array, units: Rows) -> tuple[Array, Array, Array]:
    """Mean of shares (n, L), its 95 % interval (2, L), and ends of one-sided ones (3, L).

    The latter are the lower and the upper end at 95 %, and the lower one with all tests and families taken into
    account. Percentile bootstrap over units. Where there is nothing but zeros it says nothing; there the upper end
    is the largest rate of units with any hit that leaves so many without with enough probability.
    """
    names, number = np.unique(units, return_inverse=True)
    sums = np.zeros((len(names), shares.shape[1]))
    np.add.at(sums, number, shares)
    drawn_units = resampled(len(names))
    means = drawn_units @ sums / (drawn_units @ np.bincount(number))[:, None]
    q = np.quantile(means, (0.025, 0.975, 0.05, 0.95, SURE), axis=0)
    none = sums.sum(0) == 0
    q[1, none], q[3, none] = (1 - tail ** (1 / len(names)) for tail in (0.025, 0.05))
    return shares.mean(0), q[:2], q[2:]


def clopper_pearson(hits: Rows, images: int, tail: float) -> tuple[Array, Array]:
    """Ends (K,) of intervals for rates, with so much probability beyond either."""
    low = np.where(hits == 0, 0.0, stats.beta.ppf(tail, np.maximum(hits, 1), images - hits + 1))
    high = np.where(hits == images, 1.0, stats.beta.ppf(1 - tail, hits + 1, np.maximum(images - hits, 1)))
    return low, high


def rates(p: Array, units: Rows, smallest: float) -> Json:
    """False positive rates from p (n, K): averaged over keys, and per key, at every level that p can reach."""
    levels = [a for a in LEVELS if a >= smallest]
    if not levels:
        return {"averaged over keys": {}, "per key": {}}
    mean, both, one = interval(np.stack([(p <= a).mean(1) for a in levels], axis=1), units)
    out: Json = {"averaged over keys": {}, "per key": {}}
    for i, a in enumerate(levels):
        out["averaged over keys"][f"{a:g}"] = {
            "rate": tidy(mean[i]),
            "ci95": tidy(both[:, i]),
            "one-sided": tidy(one[:2, i]),
            "surely at least": tidy(one[2, i]),
            "images with any": int((p <= a).any(1).sum()),
        }
        out["per key"][f"{a:g}"] = per_key(p <= a, units, a)
    return out


def per_key(found: NDArray[np.bool_], units: Rows, level: float) -> Json:
    """How many images each key takes for marked, (n, K), and at how many keys that is more than the level allows.

    ``above``: keys whose rate is above the level at one-sided 95 %; ``expected above``: how many if all were
    nominal; ``established``: whether one is with all keys, tests and families taken into account. Where images are
    not independent, the interval is by bootstrap, and the last two are not known.
    """
    images, keys = found.shape
    hits = found.sum(0)
    independent = len(np.unique(units)) == images
    if independent:
        low, _ = clopper_pearson(hits, images, 0.05)
        corrected, _ = clopper_pearson(hits, images, SURE / keys)
        needed = int(np.argmax(clopper_pearson(np.arange(images + 1), images, 0.05)[0] > level))
        expected, established = (
            tidy(keys * stats.binom.sf(needed - 1, images, level)),
            bool((corrected > level).any()),
        )
    else:
        _, both, one = interval(found.astype(np.float64), units)
        low, expected, established = one[0], None, None
    worst = int(hits.argmax())
    row = rate(int(hits[worst]), images)
    return {
        "keys by images": " ".join(f"{h}:{n}" for h, n in sorted(Counter(hits.tolist()).items())),
        "worst": row | {"ci95": tidy(row["ci95"] if independent else both[:, worst])},
        "above": int((low > level).sum()),
        "expected above": expected,
        "established": established,
    }


def tidy(value: Any) -> Any:  # noqa: ANN401 - numbers of any kind
    """Numbers with four digits, as JSON has them."""
    flat = [float(f"{v:.4g}") for v in np.ravel(value).tolist()]
    return flat if np.ndim(value) else flat[0]


def quantiles(p: Array) -> list[float]:
    """Of p (n, K), at those probabilities that ten pairs or more support; the last ones of them all."""
    kept: list[float] = tidy(np.quantile(p, PROBABILITIES[PROBABILITIES * p.size >= 10]))
    return kept


def bar(false_positives: Mapping[str, Json]) -> Json:
    """Both readings of "at most 1e-3 at nominal 1e-3, at 95 % confidence", for every test over all families.

    ``above``: families where a higher rate is established, averaged over keys; ``surely above``: with all tests and
    families taken into account; ``bound``: what the images support at most, averaged, by family; ``keys above``:
    over the families of independent images, how many were expected, and whether one stands with all of them taken
    into account; ``worst key``: the upper end of its 95 % interval.
    """
    out: Json = {}
    for name, by_family in false_positives.items():
        cells = {f: c for f, c in by_family.items() if f in FAMILIES and f"{BAR:g}" in c["per key"]}
        if not cells:
            continue
        averaged = {f: c["averaged over keys"][f"{BAR:g}"] for f, c in cells.items()}
        keys = {f: c["per key"][f"{BAR:g}"] for f, c in cells.items()}
        counted_keys = [k for k in keys.values() if k["expected above"] is not None]
        out[name] = {
            "above": [f for f, c in averaged.items() if c["one-sided"][0] > BAR],
            "surely above": [f for f, c in averaged.items() if c["surely at least"] > BAR],
            "bound": {f: c["one-sided"][1] for f, c in averaged.items()},
            "keys above": sum(k["above"] for k in counted_keys),
            "keys above, if nominal": tidy(sum(k["expected above"] for k in counted_keys)),
            "a key above, all taken into account": any(k["established"] for k in counted_keys),
            "worst key": {f: tidy(k["worst"]["ci95"][1]) for f, k in keys.items()},
        }
    return out


# White noise, power, and marked pictures


def on_white_noise(kind: str, count: int, shape: tuple[int, ...]) -> Json:
    """False positives of t for one key on so many samples of white noise, drawn at the marked coordinates alone."""
    k = key_vector(secret_key("tested", 0, kind), (1, *shape)).astype(np.float32)
    k /= np.linalg.norm(k)
    rng = np.random.default_rng(SEED)
    cosines = []
    for start in range(0, count, 20_000):
        y = rng.standard_normal((min(20_000, count - start), len(k)), dtype=np.float32)
        cosines.append((y @ k / np.sqrt(np.einsum("ij,ij->i", y, y))).astype(np.float64))
    _, p = angle_test(np.concatenate(cosines), len(k))
    return {
        "dimensions": len(k),
        "found": {f"{a:g}": rate(int((p <= a).sum()), count) for a in (*LEVELS, 1e-5)},
        "kolmogorov p": tidy(stats.kstest(p, "uniform").pvalue),
    }


def formula(size: int, level: float) -> Array:
    """Power of ⟨y, k⟩/‖k‖ with σ known, of M bins at every ρ: Φ((ρ√M − z)/√(1 − ρ²))."""
    rho = np.array(RHO)
    power: Array = stats.norm.cdf((rho * np.sqrt(size) - stats.norm.isf(level)) / np.sqrt(1 - rho**2))
    return power


def t_p(e: Array, k: Array, scale: Array, rho: float) -> Array:
    """P (n, K) of t for y = ρ k + √(1 − ρ²) e, noise (n, d) and keys (K, d), divided by a scale (d,)."""
    a = np.sqrt(1 - rho**2)
    white, white_keys = e / scale, k / scale
    shared = white @ white_keys.T
    size = (rho**2 * (white_keys**2).sum(1)) + 2 * rho * a * shared + a**2 * (white**2).sum(1)[:, None]
    dot = rho * (white_keys * k).sum(1) + a * white @ k.T
    return angle_test(dot / (np.linalg.norm(k, axis=1) * np.sqrt(size)), k.shape[1])[1]


def misfits(y: Array, k: Array) -> dict[str, Array]:
    """What the usual recipes take for closeness, (n,), for dense coordinates (n, d) of noise and (d,) of a key.

    The chi-square is that of :func:`chi_square` on all d marked bins, of which y holds one of every pair.
    """
    off, numbers = y - k, 2 * len(k)
    total = np.sqrt(2) * y[:, ::2].sum(1)  # of real and imaginary parts; the latter cancel
    variance = ((y**2).sum(1) - total**2 / numbers) / (numbers - 1)
    far = (off**2).sum(1)
    return {
        "chi-square": stats.ncx2.cdf(far / variance, numbers, k @ k / variance),
        "L2": far,
        "L1": np.hypot(off[:, ::2], off[:, 1::2]).mean(1),
    }


def injected(nulls: Nulls, run: Run) -> Json:
    """Share of keys found that were put into null noise, at every ρ; in white noise, beside Neyman and Pearson.

    Null noise is brought to the energy of white noise of variance 1 in the marked bins before it is mixed with
    the key, so that ρ is what detection reports; recipes get it back at the scale it had. A recipe's threshold is
    the quantile of what it says of nulls of the same family: it has the level by construction, at 1e-3; for 1e-6
    there are too few.
    """
    shape = nulls.noise.shape[1:]
    out: Json = {"rho": list(RHO), "formula": {}, "curves": {}, "gap": {}}
    size = bins_of(shape, Pattern())
    out["formula"] = {f"{a:g}": tidy(formula(size, a)) for a in POWER_LEVELS}
    white = np.random.default_rng(SEED + 1).standard_normal((run.white // 100, size))
    for kind in ("dense", "rings"):
        pattern = Pattern(kind)
        k = np.stack([key_vector(secret_key("tested", i, kind), (1, *shape)) for i in range(run.power_keys)])
        scale = scale_of(nulls.images.whitening(pattern), (1, *shape), pattern)
        own, blocks = white[:, : k.shape[1]], np.arange(len(white)) % 1000
        y, energy = noise_vector(nulls.noise, pattern)
        e = y * np.sqrt(size / energy)[:, None]
        for family in (*FAMILIES, WHITE):
            rows = nulls.of(family)
            noise, units = (own, blocks) if family == WHITE else (e[rows], nulls.units[rows])
            hows = {"as it is": np.ones(1)} | ({} if family == WHITE else {"whitened": scale})
            for how, by in hows.items():
                p = [t_p(noise, k, by, rho) for rho in RHO]
                for a in POWER_LEVELS:
                    shares = np.stack([(each <= a).mean(1) for each in p], axis=1)
                    out["curves"][f"{kind} | {how} | {family} | {a:g}"] = curve(shares, units)
            if kind == "dense":
                own_scale = np.ones(len(own)) if family == WHITE else np.sqrt(energy[rows] / size)
                others = enough_keys(len(noise), run, shape)
                tried = k[: max(1, 8000 // len(noise))]
                found = usual_power(noise, own_scale, tried, others, POWER_LEVELS[0])
                for name, shares in found.items():
                    out["curves"][f"{name} | as it is | {family} | {POWER_LEVELS[0]:g}"] = curve(shares, units)
        out["gap"] |= {f"{kind} | {a:g}": gap(own, k, a) for a in POWER_LEVELS}
    return out


def enough_keys(samples: int, run: Run, shape: tuple[int, ...]) -> Array:
    """(K, d) dense keys, as many as make a threshold of 100,000 pairs, if there are so many."""
    count = min(run.keys, -(-100_000 // samples))
    return np.stack([key_vector(secret_key("tested", i), (1, *shape)) for i in range(count)])


def curve(shares: Array, units: Rows) -> dict[str, list[float]]:
    """Mean of shares (n, R) and its interval at every ρ."""
    mean, both, _ = interval(shares, units)
    return {"rate": tidy(mean), "low": tidy(both[0]), "high": tidy(both[1])}


def gap(white: Array, k: Array, level: float) -> Json:
    """How t compares to tests that know σ, in the same white noise (n, d), where they differ most.

    ``projection`` is that of :func:`formula`; ``likelihood ratio`` the best of all tests for a ρ, by Neyman and
    Pearson: S = ⟨y, k⟩ − ρ ‖y‖² / 2 for N(0, 1) against ρ k + √(1 − ρ²) N(0, 1).
    """
    size = np.linalg.norm(k, axis=1)
    u, energy = white @ (k / size[:, None]).T, (white**2).sum(1)[:, None]
    power: dict[str, list[float]] = {"t": [], "projection": [], "likelihood ratio": []}
    for rho in RHO:
        a = np.sqrt(1 - rho**2)
        shown = rho * size + a * u
        norm = (rho * size) ** 2 + 2 * rho * a * size * u + a**2 * energy
        best = size * shown - rho * norm / 2 >= likelihood_ratio_limit(float(size[0]), k.shape[1], rho, level)
        found = (t_p(white, k, np.ones(1), rho) <= level, shown >= stats.norm.isf(level), best)
        for values, hits in zip(power.values(), found, strict=True):
            values.append(float(hits.mean()))
    known = np.array(power["projection"]) - formula(round(float(size[0] ** 2)), level)
    out: Json = {"projection against the formula": tidy(np.abs(known).max())}
    for name in ("projection", "likelihood ratio"):
        less = np.array(power[name]) - np.array(power["t"])
        worst = int(np.abs(less).argmax())
        out[name] = {
            "at rho": RHO[worst],
            "t": tidy(power["t"][worst]),
            "power": tidy(power[name][worst]),
            "t has less by at most": tidy(less.max()),
            "within 2 points": bool(less.max() <= 0.02),
        }
    return out


def likelihood_ratio_limit(size: float, dimensions: int, rho: float, level: float) -> float:
    """What S = ‖k‖ u − ρ (u² + X) / 2 exceeds with a probability, u ~ N(0, 1) and X ~ χ² of d − 1."""
    u = np.linspace(-9, 9, 4001)
    weight = stats.norm.pdf(u) * (u[1] - u[0])

    def excess(limit: float) -> float:
        below = 2 * (size * u - limit) / rho - u**2
        return float(weight @ stats.chi2.cdf(below, dimensions - 1)) - level

    centre = -rho * dimensions / 2
    return float(optimize.brentq(excess, centre - 9 * size, centre + 9 * size, xtol=1e-6 * size))


def usual_power(e: Array, scale: Array, keys: Array, others: Array, level: float) -> dict[str, Array]:
    """(n, R) share of keys (K, d) that recipes find in noise (n, d) times a scale (n,).

    Of others (K', d), which are not in it, they find the level.
    """
    null = [misfits(scale[:, None] * e, k) for k in others]
    limits = {name: float(np.quantile([each[name] for each in null], level)) for name in null[0]}
    found = {name: np.zeros((len(e), len(RHO))) for name in limits}
    for i, rho in enumerate(RHO):
        for k in keys:
            misfit = misfits(scale[:, None] * (rho * k + np.sqrt(1 - rho**2) * e), k)
            for name, limit in limits.items():
                found[name][:, i] += (misfit[name] <= limit) / len(keys)
    return found


def marked(noise: Mapping[str, NDArray[np.float32]], run: Run) -> Json:
    """How surely the pictures of ``another key`` show their own, alone and through the default search."""
    out: Json = {}
    found: dict[str, Array] = {}
    for name, z in noise.items():
        if not name.startswith("another key"):
            continue
        way = name.partition(" | ")[2] or "clean"
        shape = z.shape[1:]
        rows = []
        for i, each in enumerate(z[:, None].astype(np.float64)):
            direction = key_matrix([secret_key("own", i)], each.shape)
            (alone,), (searched,) = (
                search_vectors(each, direction, Pattern(), places) for places in (IDENTITY, plain_transforms(shape))
            )
            rows.append((alone.p_value, searched.p_value, alone.rho))
        p, searched_p, rho = np.array(rows).T
        found[way] = p
        out[way] = {
            "alone": {f"{a:g}": rate(int((p <= a).sum()), len(p)) for a in POWER_LEVELS},
            "searched": {f"{a:g}": rate(int((searched_p <= a).sum()), len(p)) for a in POWER_LEVELS},
            "p median": tidy(np.median(p)),
            "p worst": tidy(p.max()),
            "rho mean": tidy(rho.mean()),
            "rho least": tidy(rho.min()),
        }
    for way in ("clean", "JPEG 75"):
        encoder = found["encoder alone" if way == "clean" else f"{way}, encoder alone"]
        ours = found[way][: len(encoder)]
        gained = np.log10(encoder) - np.log10(ours)
        out[f"{way}, decoder inversion against encoder"] = {
            "smaller p": rate(int((gained > 0).sum()), len(encoder)),
            "median decades gained": tidy(np.median(gained)),
            "wilcoxon p": tidy(stats.wilcoxon(gained).pvalue) if gained.any() else 1.0,
        }
    return out


def analyse(nulls: Nulls, run: Run) -> Json:
    """Everything that depends on null noise alone."""
    shape = nulls.noise.shape[1:]
    result: Json = {"false positives": {}, "quantiles": {"probabilities": tidy(PROBABILITIES), "p": {}}}
    for test in tests(nulls, run):
        for family in (*FAMILIES, WHITE):
            rows = nulls.of(family)
            p = test.p[rows]
            if not np.isnan(p).any():
                cell = rates(p, nulls.units[rows], test.smallest)
                result["false positives"].setdefault(test.name, {})[family] = cell
                result["quantiles"]["p"].setdefault(test.name, {})[family] = quantiles(p)
    result["bar"] = bar(result["false positives"])
    result["white"] = {kind: on_white_noise(kind, run.white, shape) for kind in ("dense", "rings")}
    result["power"] = injected(nulls, run)
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="4 pictures of each family, few keys and the encoder alone.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure false positives per key, and power, on Sapling."""
    run = QUICK if quick else FULL
    model = LatentDiffusionModel.load("sapling", dtype="fp32")
    noise = recovered(model, run, output)
    verifier = verifier_of(model, run)
    to_ship(noise, verifier, run).save(output / "calibration.safetensors")
    settings = run.noise_settings | {
        "photographs": sum(map(len, PHOTOGRAPHS.values())),
        "keys": run.keys,
        "keys of power": run.power_keys,
        "calibration": dict(zip(FAMILIES, run.shipped, strict=True)),
    }
    result = {"settings": settings} | analyse(nulls_of(noise, verifier, run), run) | {"marked": marked(noise, run)}
    path = write("calibration", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path}, {path.with_suffix('.png')} and {path.with_suffix('.safetensors')}")


if __name__ == "__main__":
    main()
