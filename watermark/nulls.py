"""Images without the mark, and the calibration that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from inversion import LatentDiffusionModel
from inversion.fingerprint import fingerprint
from watermark.calibration import Calibration
from watermark.generate import generate
from watermark.keys import Pattern, RingKey
from watermark.verify import Verifier

UNMARKED, OTHER_KEY, GIVEN = "unmarked", "another key", "given"
Null = tuple[str, str | Path | Image.Image]


def generated_nulls(
    model: LatentDiffusionModel,
    prompts: Sequence[str],
    count: int,
    *,
    seed: int,
    guidance: float = 3.0,
    steps: int = 50,
) -> Iterator[Null]:
    """``count`` pictures of the model, every second one marked with a key, dense or of rings, that is thrown away.

    Args:
        model: the model.
        prompts: used in turn, each for two pictures.
        count: of pictures.
        seed: of the first one.
        guidance: classifier-free guidance scale.
        steps: of the sampler.
    """
    for i in range(count):
        other = RingKey.generate(Pattern(("dense", "rings")[i // 2 % 2]))
        key, prompt = other if i % 2 else None, prompts[i // 2 % len(prompts)]
        (made,) = generate(model, [prompt], key=key, seed=seed + i, guidance=guidance, steps=steps)
        yield (OTHER_KEY if i % 2 else UNMARKED), made.image


def calibrate(
    verifier: Verifier, nulls: Iterable[Null], progress: Callable[[int], None] | None = None
) -> Calibration:
    """Recover the noise of null images as a verifier does. Its keys and level play no part.

    Images that a verifier would not test, unreadable or inconclusive ones, are left out.

    Args:
        verifier: with the model and the settings that the calibration is for.
        nulls: (family, image).
        progress: called after every image with the number of images done.

    Raises:
        CalibrationError: if fewer than two images could be tested.
    """
    families: list[str] = []
    used, noise = [], []

    def images() -> Iterator[str | Path | Image.Image]:
        for family, image in nulls:
            families.append(family)
            yield image

    for done, examined in enumerate(verifier.examine(images()), 1):
        z = examined.noise
        if z is not None:
            with np.errstate(over="ignore"):
                kept = z.numpy().astype(np.float16)
            if np.isfinite(kept).all():
                used.append(families[done - 1])
                noise.append(kept)
        if progress is not None:
            progress(done)
    shape = (0, *verifier.model.latent_shape)
    return Calibration(
        settings=verifier.settings,
        fingerprint=fingerprint(verifier.model),
        noise=np.stack(noise) if noise else np.empty(shape, dtype=np.float16),
        families=tuple(used),
    )
