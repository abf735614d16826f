"""The noise of the null pictures of :mod:`benchmarks.calibration`, recovered in chunks, and its share to ship."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.kept import decoder_inversion, diffusion_inversion, keep, kept, kept_file, made_of
from benchmarks.null_images import BATCH, FAMILIES, GUIDANCE, OWN, SEED, photographs, pictures, secret_key
from inversion import LatentDiffusionModel
from inversion.fingerprint import fingerprint
from watermark.calibration import Calibration
from watermark.demo import jpeg
from watermark.transforms import IDENTITY
from watermark.verify import Verifier

CHUNK = 96
"""Pictures between two writes of the file."""


@dataclass(frozen=True)
class Recovery:
    """How many null pictures there are, and how they are made and their noise recovered.

    Attributes:
        counts: pictures of every family.
        also: how many of the marked pictures are recovered by the encoder alone, by decoder inversion all the way,
            and after JPEG compression by all three, too.
        steps: of generation.
    """

    counts: tuple[int, ...]
    also: int
    steps: int
    decoder: str
    inversion_steps: int

    def settings(self, model: LatentDiffusionModel) -> dict[str, Any]:
        """What the recovered noise depends on."""
        return {
            "pictures": dict(zip(FAMILIES, self.counts, strict=True)),
            "keys of marked pictures": list(OWN),
            "marked pictures in other ways": self.also,
            "seed": SEED,
            "steps of generation": self.steps,
            "guidance": GUIDANCE,
            "decoder": decoder_inversion(self.decoder),
            "diffusion inversion": diffusion_inversion(model, self.inversion_steps),
            **made_of(model.name),
        }


def verifier_of(model: LatentDiffusionModel, how: Recovery, decoder: str | None = None) -> Verifier:
    """The verifier that recovers noise; its key plays no part."""
    chosen = how.decoder if decoder is None else decoder
    keys = {"any": secret_key("any", 0)}
    return Verifier(model, keys, steps=how.inversion_steps, decoder=chosen, batch_size=BATCH, transforms=IDENTITY)


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


def recovered(model: LatentDiffusionModel, how: Recovery, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Noise (B, C, h, w) of every family, and of marked pictures in other ways, as far as the folder lacks it."""
    path = kept_file(folder, "calibration", how.settings(model))
    noise = kept(path)
    plain = verifier_of(model, how)
    encoder, all_the_way = (verifier_of(model, how, decoder) for decoder in ("encoder", "anderson"))
    recoveries: dict[str, tuple[Verifier, Callable[[Image.Image], Image.Image]]] = {
        "clean": (plain, lambda image: image),
        "encoder alone": (encoder, lambda image: image),
        "all the way": (all_the_way, lambda image: image),
        "JPEG 75": (plain, jpeg),
        "JPEG 75, encoder alone": (encoder, jpeg),
        "JPEG 75, all the way": (all_the_way, jpeg),
    }
    wanted = {(family, "clean"): count for family, count in zip(FAMILIES, how.counts, strict=True)}
    most = min(how.also, wanted["another key", "clean"])
    wanted |= {("another key", way): most for way in recoveries if way != "clean"}

    def name_of(family: str, way: str) -> str:
        return family if way == "clean" else f"{family} | {way}"

    plan: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for (family, way), count in wanted.items():
        for start in range(len(noise.get(name_of(family, way), ())), count, CHUNK):
            plan.setdefault((family, start), []).append((way, min(start + CHUNK, count)))
    if any(family == "photographs" for family, _ in plan):
        photographs()  # if any are missing, better now than after an hour
    in_order = sorted(plan.items(), key=lambda chunk: (FAMILIES.index(chunk[0][0]), chunk[0][1]))
    for (family, start), ways in track(in_order, "recovering noise", console=Console(stderr=True)):
        images = pictures(model, family, range(start, max(stop for _, stop in ways)), how.steps)
        for way, stop in ways:
            (verifier, treat), name = recoveries[way], name_of(family, way)
            z = noise_of(verifier, [treat(image) for image in images[: stop - start]])
            noise[name] = np.concatenate([noise.get(name, z[:0]), z])
        keep(path, noise)
    return noise


def to_ship(noise: Mapping[str, NDArray[np.float32]], verifier: Verifier, counts: Sequence[int]) -> Calibration:
    """A calibration of the first pictures of every family, so many, in fours that are spread evenly."""
    order = sorted(((i // 4 * 4 + 2) / count, f, i) for f, count in enumerate(counts) for i in range(count))
    return Calibration(
        settings=verifier.settings,
        fingerprint=fingerprint(verifier.model),
        noise=np.stack([noise[FAMILIES[f]][i] for _, f, i in order]).astype(np.float16),
        families=tuple(FAMILIES[f] for _, f, _ in order),
    )
