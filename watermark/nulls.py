"""Images without the mark, and the calibration that is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from inversion import LatentDiffusionModel
from inversion.fingerprint import fingerprint
from watermark.calibration import Calibration, CalibrationError
from watermark.generate import generate
from watermark.keys import Pattern, RingKey
from watermark.reading.content import ImageError
from watermark.reading.images import read_bytes
from watermark.verify import Verifier

UNMARKED, OTHER_KEY, GIVEN = "unmarked", "another key", "given"
BETWEEN_SAVES = 64
"""Images after which what was recovered is saved."""


@dataclass(frozen=True)
class Null:
    """An image that does not carry the mark.

    Attributes:
        family: what kind of image it is.
        image: a picture, or the path of one.
        source: what tells it from others: its seed, or its file's SHA-256; empty if nothing does.
    """

    family: str
    image: str | Path | Image.Image
    source: str = ""


def generated_nulls(
    model: LatentDiffusionModel,
    prompts: Sequence[str],
    count: int,
    *,
    seed: int,
    guidance: float = 3.0,
    steps: int = 50,
    known: Collection[str] = (),
) -> Iterator[Null]:
    """``count`` pictures of the model, every second one marked with a key, dense or of rings, that is thrown away.

    Args:
        model: the model.
        prompts: used in turn, each for two pictures.
        count: of pictures.
        seed: of the first one.
        guidance: classifier-free guidance scale.
        steps: of the sampler.
        known: sources, see :func:`seed_source`, of pictures that are left out.
    """
    for i in range(count):
        source = seed_source(seed + i)
        if source in known:
            continue
        other = RingKey.generate(Pattern(("dense", "rings")[i // 2 % 2]))
        key, prompt = other if i % 2 else None, prompts[i // 2 % len(prompts)]
        (made,) = generate(model, [prompt], key=key, seed=seed + i, guidance=guidance, steps=steps)
        yield Null(OTHER_KEY if i % 2 else UNMARKED, made.image, source)


def seed_source(seed: int) -> str:
    """The source of a generated picture: its seed alone, as other prompts would leave the same noise in another."""
    return f"seed {seed}"


def given_nulls(files: Iterable[Path], known: Collection[str] = ()) -> list[Null]:
    """Files as null images, the same content once.

    Args:
        files: paths of images.
        known: sources of files that are left out.
    """
    found: dict[str, Null] = {}
    for file in files:
        try:
            source = hashlib.sha256(read_bytes(file)).hexdigest()
        except ImageError:  # the verifier will say so, too
            source = ""
        found.setdefault(source or str(file), Null(GIVEN, file, source))
    return [null for null in found.values() if null.source not in known]


def calibrate(
    verifier: Verifier,
    nulls: Iterable[Null],
    progress: Callable[[int], None] | None = None,
    *,
    start: Calibration | None = None,
    save: Callable[[Calibration], None] | None = None,
) -> Calibration:
    """Recover the noise of null images as a verifier does. Its keys and level play no part.

    Images that a verifier would not test, unreadable or inconclusive ones, are left out, and those that are there
    already: the same ``source`` counts once.

    Args:
        verifier: with the model and the settings that the calibration is for.
        nulls: the images.
        progress: called after every image with the number of images done.
        start: a calibration for the same model and settings that the images are added to.
        save: called now and then with what there is already.

    Raises:
        CalibrationError: if fewer than two images could be tested, or ``start`` was made for something else, or
            does not say what it was made of.
    """
    model, settings = fingerprint(verifier.model), verifier.settings
    families: list[str] = []
    sources: list[str] = []
    noise = [np.empty((0, *verifier.model.latent_shape), dtype=np.float16)]
    if start is not None:
        start.check(settings, model)
        families += start.families
        if "" in (start.sources or [""]):
            raise CalibrationError("the calibration does not say which images it was made of, so none can be added")
        sources += start.sources
        noise.append(start.noise)
    read: list[tuple[str, str]] = []
    seen = set(sources)

    def images() -> Iterator[str | Path | Image.Image]:
        for null in nulls:
            if null.source and null.source in seen:
                continue
            seen.add(null.source)
            read.append((null.family, null.source))
            yield null.image

    def made() -> Calibration:
        return Calibration(settings, model, np.concatenate(noise), tuple(families), tuple(sources))

    for done, examined in enumerate(verifier.examine(images()), 1):
        z = examined.noise
        if z is not None:
            with np.errstate(over="ignore"):
                kept = z[None].numpy().astype(np.float16)
            if np.isfinite(kept).all():
                family, source = read[done - 1]
                families.append(family)
                sources.append(source)
                noise.append(kept)
        if progress is not None:
            progress(done)
        if save is not None and done % BETWEEN_SAVES == 0 and len(families) > 1:
            save(made())
    return made()
