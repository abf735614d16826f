"""Writing a key into a picture that exists, by a small change after which its recovered noise carries the key.

The verifier recovers noise R(x) from a picture and looks at its correlation ρ with the key. Imposing the key on the
noise and sampling anew would change the picture as a whole, and an autoencoder that cannot represent it would blur
it. So the picture is kept, and moved by

    x ← x + D(z + Δz) − D(z),    Δz = (ρ* − ρ) ∇ρ / ‖∇ρ‖²,

a Newton step in the direction in which the least change of the latent raises ρ most, with z the latent by the
verifier's own decoder inversion, shrunk by default; what D cannot represent of x cancels. The picture is rounded
to 8 bits, ρ measured as a verifier measures it, and the step repeated until ρ is what was asked for. Without
gradients, ``sampling`` instead moves the noise itself towards the key and carries that back by sampling,
Δz = S(n + Δn) − S(n). ``benchmarks/marking.py`` compares both.

A picture that is larger than the model's is tested at the model's size, so it is marked there, too: the change is
enlarged and added to the whole, so that all of its detail stays.

Marks say that who holds the key has marked a picture, not that a model has made it. Who has a marked picture and
its original has their difference, which is the mark, and can add it to other pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from watermark.keys import RingKey
from watermark.marking.attempts import Attempt, attempted
from watermark.marking.changes import Pixels
from watermark.reading.fitting import why_inconclusive
from watermark.reading.images import Picture
from watermark.similarity import psnr, ssim
from watermark.verdict import INCONCLUSIVE, WATERMARKED, Verdict
from watermark.verify import Verifier

METHODS = ("gradient", "sampling")
STRENGTH, MIN_PSNR, ROUNDS = 0.5, 30.0, 8


@dataclass(frozen=True)
class Marked:
    """A picture that was marked, or that could not be.

    Attributes:
        pixels: (H, W, 3) uint8, of the original's size.
        verdict: of the verifier on these very pixels.
        psnr: to the original in dB; inf if nothing had to be changed.
        ssim: structural similarity to the original, at most 1.
        rounds: pictures that were tried.
        at_bound: whether the bound on PSNR left no room for more.
    """

    pixels: Pixels
    verdict: Verdict
    psnr: float
    ssim: float
    rounds: int
    at_bound: bool = False

    @property
    def holds(self) -> bool:
        """Whether the verifier finds the mark at its level."""
        return self.verdict.status == WATERMARKED


def mark(
    verifier: Verifier,
    pictures: Sequence[Pixels],
    *,
    strength: float = STRENGTH,
    min_psnr: float = MIN_PSNR,
    method: str = "gradient",
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Marked]:
    """Write a verifier's key into pictures, changing them as little as possible.

    Args:
        verifier: with the one key to write, of any kind but ``zeros``; its model, steps and decoder recover the
            noise, its level and transformations decide whether the mark holds.
        pictures: (H, W, 3) uint8 each, in sRGB.
        strength: the correlation ρ that recovered noise is to have with the key, in (0, 1); pictures generated with
            a key have about 0.65. More is more visible, and survives more.
        min_psnr: no picture is changed by more than this, in dB; then ρ is as large as that allows.
        method: ``gradient`` differentiates the diffusion network; ``sampling`` does not, and changes more.
        rounds: pictures that are tried, at most, ≥ 1; two or three suffice as a rule.
        progress: called with the number of pictures that are done and that of all.

    Returns:
        One result for each picture, whether its mark ``holds`` or not. A picture that no verdict could be given on
        is returned as it was.

    Raises:
        ValueError: if an argument is out of range, or the key cannot be written.
    """
    key = the_key(verifier)
    if not 0 < strength < 1:
        raise ValueError(f"strength must be between 0 and 1, got {strength}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if not min_psnr >= 0:
        raise ValueError(f"min_psnr must be at least 0, got {min_psnr}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    for pixels in pictures:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pictures must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    out: list[Marked] = []
    for start in range(0, len(pictures), verifier.batch_size):
        part = pictures[start : start + verifier.batch_size]
        size = verifier.model.image_size
        reasons = [why_inconclusive(Picture(pixels), size) for pixels in part]
        fine = [pixels for pixels, reason in zip(part, reasons, strict=True) if reason is None]
        attempts = iter(attempted(verifier, key, fine, strength, min_psnr, method, rounds))
        for pixels, reason in zip(part, reasons, strict=True):
            if reason is None:
                out.append(result(verifier, next(attempts)))
            else:
                verdict = Verdict("", INCONCLUSIVE, reason=reason)
                out.append(Marked(pixels, verdict, float("inf"), 1.0, 0))
            if progress is not None:
                progress(len(out), len(pictures))
    return out


def the_key(verifier: Verifier) -> RingKey:
    """The one key of a verifier, or a ValueError if it cannot be written."""
    key, *more = verifier.keys.values()
    if more or not isinstance(key, RingKey):
        raise ValueError("the verifier must have exactly one key, and not one of other code")
    if key.pattern.kind == "zeros":
        raise ValueError("a key of zeros has no values to write: every such key is the same")
    return key


def result(verifier: Verifier, attempt: Attempt) -> Marked:
    """The best picture of an attempt with the verifier's word on it."""
    (verdict,) = verifier.verify([Image.fromarray(attempt.pixels)])
    return Marked(
        attempt.pixels,
        verdict,
        psnr(attempt.original, attempt.pixels),
        ssim(attempt.original, attempt.pixels),
        attempt.rounds,
        attempt.at_bound,
    )
