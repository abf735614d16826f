"""Writing a key into a picture that exists: the smallest change after which its recovered noise carries the key.

The verifier recovers noise R(x) from a picture and looks at its correlation ρ with the key. Imposing the key on the
noise and sampling anew would change the picture as a whole, and an autoencoder that cannot represent it would blur
it. So the picture is kept, and moved by

    x ← x + D(z + Δz) − D(z),    Δz = (ρ* − ρ) ∇ρ / ‖∇ρ‖²,

a Newton step in the direction in which the least change of the latent raises ρ most, with z the recovered latent;
what D cannot represent of x cancels. The picture is rounded to 8 bits, ρ measured as a verifier measures it, and
the step repeated until ρ is what was asked for. Without gradients, ``sampling`` instead moves the noise itself
towards the key and carries that back by sampling, Δz = S(n + Δn) − S(n). ``benchmarks/marking.py`` compares both.

A picture that is larger than the model's is tested at the model's size, so it is marked there, too: the change is
enlarged and added to the whole, so that all of its detail stays.

Marks say that who holds the key has marked a picture, not that a model has made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from inversion import invert_decoder, invert_diffusion
from watermark.changes import Pixels, carried, changed, climbed, correlation
from watermark.keys import RingKey
from watermark.reading.fitting import as_tensor, fit, why_inconclusive
from watermark.reading.images import Picture
from watermark.similarity import psnr, ssim
from watermark.verdict import INCONCLUSIVE, WATERMARKED, Verdict
from watermark.verify import Verifier

METHODS = ("gradient", "sampling")
STRENGTH, MIN_PSNR, ROUNDS = 0.4, 30.0, 8
NEAR = 0.01
"""How near to the wanted correlation is near enough."""


@dataclass(frozen=True)
class Marked:
    """A picture that was marked, or that could not be.

    Attributes:
        pixels: (H, W, 3) uint8, of the original's size.
        verdict: of the verifier on these very pixels.
        psnr: to the original in dB; inf if nothing had to be changed.
        ssim: structural similarity to the original, at most 1.
        rounds: pictures that were tried.
    """

    pixels: Pixels
    verdict: Verdict
    psnr: float
    ssim: float
    rounds: int

    @property
    def holds(self) -> bool:
        """Whether the verifier finds the mark at its level."""
        return self.verdict.status == WATERMARKED


@dataclass
class Attempt:
    """How far one picture is.

    Attributes:
        original: (H, W, 3) uint8.
        size: (height, width) of the model's pictures.
        pixels: (H, W, 3) uint8, the best so far.
        change: (3, h, w) what was added to make it, at the model's size.
        z: (C, h, w) its recovered latent.
        noise: (C, h, w) its recovered noise.
        rho: of that noise.
        step: (3, h, w) the change that is tried next, after one that went too far; None for a new one.
        gain: by what ρ rose for 1 that was asked for, in the last round.
        done: whether it is finished.
    """

    original: Pixels
    size: tuple[int, int]
    pixels: Pixels
    change: Tensor
    z: Tensor
    noise: Tensor
    rho: float
    step: Tensor | None = None
    gain: float = 1.0
    rounds: int = 0
    done: bool = False


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
            a key have about 0.6. More is more visible, and survives more.
        min_psnr: no picture is changed by more than this, in dB; then ρ is as large as that allows.
        method: ``gradient`` differentiates the diffusion network; ``sampling`` does not, and changes more.
        rounds: pictures that are tried, at most, ≥ 1; 2 to 4 suffice as a rule.
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
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
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


def attempted(
    verifier: Verifier,
    key: RingKey,
    pictures: Sequence[Pixels],
    strength: float,
    min_psnr: float,
    method: str,
    rounds: int,
) -> list[Attempt]:
    """Pictures of one batch, changed until their recovered noise has the wanted correlation."""
    size = verifier.model.image_size
    blank = torch.zeros(3, *size)
    attempts = [Attempt(p, size, p, blank, blank, blank, 0.0) for p in pictures]
    for attempt, (z, noise, rho) in zip(attempts, recovered(verifier, key, pictures), strict=True):
        attempt.z, attempt.noise, attempt.rho = z, noise, rho
        attempt.done = rho >= strength - NEAR
    for _ in range(rounds):
        active = [a for a in attempts if not a.done]
        if not active:
            break
        fresh = [a for a in active if a.step is None]
        for attempt, step in zip(fresh, steps_for(verifier, key, fresh, strength, method), strict=True):
            attempt.step = step
        tried = [bounded(a, min_psnr) for a in active]
        found = recovered(verifier, key, [pixels for _, pixels, _ in tried])
        for attempt, (share, pixels, at_bound), (z, noise, rho) in zip(active, tried, found, strict=True):
            judge(attempt, share, pixels, at_bound, z, noise, rho, strength)
    return attempts


def judge(
    a: Attempt, share: float, pixels: Pixels, at_bound: bool, z: Tensor, noise: Tensor, rho: float, strength: float
) -> None:
    """Take what was tried, or a part of it next time if it went too far, or end where nothing is gained."""
    assert a.step is not None  # noqa: S101 - set before anything is tried
    a.rounds += 1
    step, risen, wanted = share * a.step, rho - a.rho, strength - a.rho
    if risen <= 0:
        a.done = True
    elif risen > wanted + 2 * NEAR and wanted > 0:
        a.step = step * (wanted / risen)
    else:
        a.pixels, a.change, a.z, a.noise, a.rho = pixels, a.change + step, z, noise, rho
        a.step, a.gain = None, min(max(a.gain * risen / wanted, 0.25), 2.0)
        a.done = at_bound or rho >= strength - NEAR


def steps_for(
    verifier: Verifier, key: RingKey, attempts: Sequence[Attempt], strength: float, method: str
) -> list[Tensor]:
    """The changes of pictures, (3, h, w) each at the model's size, that are to bring ρ to the wanted value."""
    if not attempts:
        return []
    model = verifier.model
    z, noise = (torch.stack([getattr(a, name) for a in attempts]) for name in ("z", "noise"))
    wanted = torch.tensor([(strength - a.rho) / a.gain for a in attempts], device=z.device)[:, None, None, None]
    if method == "gradient":
        dz = climbed(model, z, key, wanted, verifier.steps)
    else:
        dz = carried(model, noise, key, wanted, verifier.steps)
    decode = model.autoencoder.decode
    return list((decode(z + dz) - decode(z)).cpu())


def recovered(verifier: Verifier, key: RingKey, pictures: Sequence[Pixels]) -> list[tuple[Tensor, Tensor, float]]:
    """Latent, noise and ρ of pictures of any size, as the verifier recovers them."""
    if not pictures:
        return []
    model = verifier.model
    x = as_tensor([fit(Picture(pixels), model.image_size)[0] for pixels in pictures]).to(model.device)
    z = invert_decoder(model.autoencoder, x, method=verifier.decoder, chunk_size=verifier.batch_size).value
    noise = invert_diffusion(model, z, steps=verifier.steps).value
    return list(zip(z, noise, correlation(noise, key).tolist(), strict=True))


def bounded(attempt: Attempt, min_psnr: float) -> tuple[float, Pixels, bool]:
    """The share of the step that the bound on PSNR allows, the picture with it, and whether that is below 1."""
    assert attempt.step is not None  # noqa: S101 - set before anything is tried
    step, low, high = attempt.step, 0.0, 1.0

    def at(share: float) -> Pixels:
        return changed(attempt.original, attempt.change + share * step, attempt.size)

    if psnr(attempt.original, whole := at(1.0)) >= min_psnr:
        return 1.0, whole, False
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if psnr(attempt.original, at(middle)) >= min_psnr else (low, middle)
    return low, at(low), True


def result(verifier: Verifier, attempt: Attempt) -> Marked:
    """The best picture of an attempt with the verifier's word on it."""
    (verdict,) = verifier.verify([Image.fromarray(attempt.pixels)])
    return Marked(
        attempt.pixels,
        verdict,
        psnr(attempt.original, attempt.pixels),
        ssim(attempt.original, attempt.pixels),
        attempt.rounds,
    )
