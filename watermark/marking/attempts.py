"""The rounds of marking: try a change, look at what noise a verifier then recovers, go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from watermark.keys import RingKey
from watermark.marking.changes import Pixels, carried, changed, climbed, correlation
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import Picture
from watermark.similarity import psnr
from watermark.verify import Verifier

NEAR = 0.01
"""How near to the wanted correlation is near enough."""
ROUNDED = 0.5 / 127.5
"""RMS of a change in [-1, 1] of half a level of 8 bits: pictures that are rounded keep little of what is less."""


@dataclass
class Attempt:
    """How far one picture is.

    Attributes:
        original: (H, W, 3) uint8.
        size: (height, width) of the model's pictures.
        pixels: (H, W, 3) uint8, the best so far: of those with as much of the mark as was asked for the one with
            the least, else the one with the most.
        found: ρ of these pixels.
        change: (3, h, w) what was added to the original to get where the next step starts, at the model's size.
        z: (C, h, w) the recovered latent there.
        noise: (C, h, w) the recovered noise there.
        rho: of that noise.
        step: (3, h, w) the change that is tried next, after one that went too far; None for a new one.
        gain: by what ρ rose for 1 that was asked for, in the last round.
        rounds: pictures that were tried.
        done: whether it is finished.
        at_bound: whether the bound on PSNR cut the last change that was taken, or left no room for one.
    """

    original: Pixels
    size: tuple[int, int]
    pixels: Pixels
    change: Tensor
    z: Tensor
    noise: Tensor
    rho: float
    found: float
    step: Tensor | None = None
    gain: float = 1.0
    rounds: int = 0
    done: bool = False
    at_bound: bool = False


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
    blank = torch.zeros(3, *size, dtype=torch.float32, device="cpu")
    attempts = [Attempt(p, size, p, blank, blank, blank, 0.0, 0.0) for p in pictures]
    for attempt, (z, noise, rho) in zip(attempts, recovered(verifier, key, pictures), strict=True):
        attempt.z, attempt.noise, attempt.rho, attempt.found = z, noise, rho, rho
        attempt.done = not rho < strength - NEAR  # nor is there anything to do where it is not a number
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
    """Take what was tried, or try another part of it next.

    If it went too far, that is as much as should do; if nothing was gained, a quarter, or twice as much where
    rounding to 8 bits left next to nothing of it.
    """
    assert a.step is not None  # noqa: S101 - set before anything is tried
    a.rounds += 1
    if better(rho, a.found, strength - NEAR):
        a.pixels, a.found = pixels, rho
    step, risen, wanted = share * a.step, rho - a.rho, strength - a.rho
    if share == 0:
        a.done = a.at_bound = True
    elif not risen > 0:
        a.step = step * 2 if step.square().mean().sqrt() < ROUNDED else step / 4
    elif risen > wanted + 2 * NEAR:
        a.step = step * (wanted / risen)
    else:
        a.change, a.z, a.noise, a.rho = a.change + step, z, noise, rho
        a.step, a.gain = None, min(max(a.gain * risen / wanted, 0.25), 2.0)
        a.at_bound = at_bound
        a.done = at_bound or rho >= strength - NEAR


def better(rho: float, than: float, enough: float) -> bool:
    """Whether one correlation is nearer to what was asked for: the least that is enough, else the most."""
    return rho > than if than < enough else enough <= rho < than


def steps_for(
    verifier: Verifier, key: RingKey, attempts: Sequence[Attempt], strength: float, method: str
) -> list[Tensor]:
    """The changes of pictures, (3, h, w) each at the model's size, that are to bring ρ to the wanted value."""
    if not attempts:
        return []
    model = verifier.model
    z, noise = (torch.stack([getattr(a, name) for a in attempts]) for name in ("z", "noise"))
    ways = [(strength - a.rho) / a.gain for a in attempts]
    wanted = torch.tensor(ways, dtype=torch.float32, device=z.device)[:, None, None, None]
    if method == "gradient":
        dz = climbed(model, z, key, wanted, verifier.steps, verifier.batch_size)
    else:
        dz = carried(model, noise, key, wanted, verifier.steps)
    decode = model.autoencoder.decode
    return list((decode(z + dz) - decode(z)).cpu())


def recovered(verifier: Verifier, key: RingKey, pictures: Sequence[Pixels]) -> list[tuple[Tensor, Tensor, float]]:
    """Latent, noise and ρ of pictures of any size, as the verifier recovers them; NaN where latents overflow."""
    if not pictures:
        return []
    x = as_tensor([fit(Picture(pixels), verifier.model.image_size)[0] for pixels in pictures])
    z, noise = verifier.recover(x)
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
