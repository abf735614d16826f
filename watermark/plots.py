"""Pictures of recovered noise: its spectrum, what a key sees in it, and how well they fit."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from watermark.effect import marked_noises, marked_rings, shared_part
from watermark.features import key_spectrum
from watermark.files import appearing
from watermark.keys import RingKey
from watermark.reports.tables import p_text, printable
from watermark.rings import Rings, rings_for
from watermark.verdict import WATERMARKED, Verdict
from watermark.verify import Examined
from watermark.views import undo

GREEN, GREY = "#1a7f37", "#57606a"


def centred_spectrum(noise: Tensor, channel: int) -> NDArray[np.float64]:
    """Re F of one channel of noise (C, h, w), zero frequency in the middle, a white bin having unit variance."""
    z = noise[channel].to(torch.float64).numpy()
    return np.fft.fftshift(np.fft.fft2(z)).real / np.sqrt(z.size / 2)


def seen_through(noise: Tensor, key: RingKey) -> NDArray[np.float64]:
    """The marked channels of noise (C, h, w) as a key sees them, (channels, h, w), zero frequency in the middle.

    In every marked bin the part of F that points where the key does, Re(F K*) / |K|; white noise gives unit
    variance, the key's own noise positive values. Zero elsewhere.
    """
    z = noise.to(torch.float64).numpy()
    rings = rings_for(z.shape, key.pattern)
    spectrum = np.fft.fft2(z[list(rings.channels)]) / np.sqrt(z[0].size / 2)
    k = key_spectrum(key, z.shape)
    size = np.abs(k)
    seen = np.where(size > 0, (spectrum * k.conj()).real / np.where(size > 0, size, 1), 0)
    return np.fft.fftshift(seen, axes=(-2, -1))


def show_spectrum(axes: Axes, values: NDArray[np.float64], rings: Rings) -> None:
    """Draw the middle of a centred spectrum, out to a little more than the outermost ring."""
    reach = [math.ceil(rings.radii[-1] * side / min(values.shape)) + 2 for side in values.shape]
    rows, columns = (
        slice(max(0, side // 2 - r), side // 2 + r + 1) for side, r in zip(values.shape, reach, strict=True)
    )
    axes.imshow(values[rows, columns], cmap="RdBu_r", vmin=-3.5, vmax=3.5, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def verdict_colour(verdict: Verdict) -> str:
    """Green for a mark that was found, grey for anything else."""
    return GREEN if verdict.status == WATERMARKED else GREY


def show_profile(axes: Axes, spectrum: NDArray[np.float64], pattern: NDArray[np.float64], rings: Rings) -> None:
    """Draw the mean of a centred spectrum over each ring, with standard errors, beside that of the key."""
    index = np.fft.fftshift(rings.index)
    inside = [spectrum[index == i] for i in range(len(rings.radii))]
    means = [bins.mean() for bins in inside]
    errors = [bins.std(ddof=1) / np.sqrt(len(bins) / 2) for bins in inside]  # conjugate bins are equal
    values = [pattern[index == i].mean() for i in range(len(rings.radii))]
    axes.axhline(0, color="0.8", lw=1)
    axes.plot(rings.radii, values, "o-", color=GREY, mfc="none", label="key")
    axes.errorbar(rings.radii, means, errors, fmt="s", color="#0969da", capsize=2, label="recovered, mean ± s.e.")


def show_agreement(axes: Axes, seen: NDArray[np.float64], rings: Rings) -> None:
    """Draw the mean of what a key sees in each ring, with standard errors: 0 where it is not."""
    index = np.fft.fftshift(rings.index)
    inside = [seen[index == i] for i in range(len(rings.radii))]
    errors = [bins.std(ddof=1) / np.sqrt(len(bins) / 2) for bins in inside]  # conjugate bins are equal
    axes.axhline(0, color="0.8", lw=1)
    means = [bins.mean() for bins in inside]
    axes.errorbar(rings.radii, means, errors, fmt="s", color="#0969da", capsize=2, label="mean ± s.e.")
    axes.set_ylim(-0.75, 2)


def inspection_figure(image: NDArray[np.uint8], examined: Examined, key: RingKey) -> Figure:
    """One image: the picture, its recovered spectrum, what the key sees in it, and how they agree ring by ring.

    Args:
        image: (H, W, 3) the picture.
        examined: its verdict, and the noise (C, h, w) that it rests on; there must be one.
        key: the key that it was tested for. The figure shows the key's pattern: keep it as secret as the key.
    """
    noise, verdict = upright(examined), examined.verdict
    rings = rings_for(tuple(noise.shape), key.pattern)
    patterns = np.fft.fftshift(key_spectrum(key, tuple(noise.shape)).real * np.sqrt(2), axes=(-2, -1))
    seen = seen_through(noise, key)
    figure = Figure(figsize=(14, 3.5 * len(rings.channels)), layout="constrained")
    axes = figure.subplots(len(rings.channels), 4, width_ratios=[1, 1, 1, 1.5], squeeze=False)
    for row, channel in enumerate(rings.channels):
        picture, recovered, expected, profile = axes[row]
        picture.set_axis_off()
        spectrum = centred_spectrum(noise, channel)
        show_spectrum(recovered, spectrum, rings)
        recovered.set_title(f"recovered noise, Re F, channel {channel}", fontsize=9)
        if key.pattern.kind == "dense":
            show_spectrum(expected, seen[row], rings)
            expected.set_title("the same, seen through the key: red agrees", fontsize=9)
            show_agreement(profile, seen[row], rings)
        else:
            show_spectrum(expected, patterns[row], rings)
            expected.set_title(f"the pattern of {verdict.key}", fontsize=9)
            show_profile(profile, spectrum, patterns[row], rings)
        profile.set_xlabel("radius (cycles across the shorter side)")
        profile.set_xticks(rings.radii[:: max(1, len(rings.radii) // 8)])
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(printable(Path(verdict.name).name), fontsize=9)
    axes[0, 3].legend(fontsize=8, frameon=False)
    title = f"{verdict.status.replace('_', ' ')}: p = {p_text(verdict.p_value)}, ρ = {verdict.rho or 0:.2f}"
    axes[0, 3].set_title(title, fontsize=10, color=verdict_colour(verdict), fontweight="bold")
    return figure


def upright(examined: Examined) -> Tensor:
    """The noise (C, h, w) of an image with what was done to the image undone."""
    if examined.noise is None:
        raise ValueError("the image was not tested: there is no noise to draw")
    return torch.from_numpy(undo(examined.noise[None].double().numpy(), examined.transform)[0].copy())


def gallery_figure(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, Examined]]]], key: RingKey) -> Figure:
    """Groups of images, each a row of pictures above what a key sees in their noise, with p-values.

    Args:
        rows: (title, [(picture, its verdict and noise), …]) for each group; images without a test are left out.
        key: the key that they were tested for. Whoever has the pictures can work out its pattern from the figure:
            keep it as secret as the key.
    """
    columns = max(len(items) for _, items in rows)
    figure = Figure(figsize=(1.28 * columns + 0.4, 2.95 * len(rows)), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(len(rows), 1, hspace=0.02, squeeze=False)
    for part, (title, items) in zip(parts[:, 0], rows, strict=True):
        found = sum(e.verdict.status == WATERMARKED for _, e in items)
        part.suptitle(f"{title}: {found} of {len(items)} found", x=0.01, ha="left", fontsize=11, fontweight="bold")
        axes = part.subplots(2, columns, squeeze=False)
        for ax in axes.ravel():
            ax.set_axis_off()
        tested = [(picture, e) for picture, e in items if e.noise is not None]
        for (picture, examined), (above, below) in zip(tested, axes.T, strict=False):
            noise, colour = upright(examined), verdict_colour(examined.verdict)
            above.imshow(picture)
            below.set_axis_on()
            show_spectrum(below, seen_through(noise, key)[0], rings_for(tuple(noise.shape), key.pattern))
            for spine in below.spines.values():
                spine.set_color(colour)
                spine.set_linewidth(2)
            below.set_xlabel(f"p = {p_text(examined.verdict.p_value)}", fontsize=9, color=colour)
    return figure


def effect_figure(key: RingKey, shape: tuple[int, ...], strength: float = 0.7) -> Figure:
    """What a key does to noise: its part in all of them, and their values and spectrum beside plain noise's.

    Args:
        key: the key. The figure shows its pattern: keep it as secret as the key.
        shape: of the noise, (C, H, W), or (C, F, H, W) for videos.
        strength: of the mark, in (0, 1].

    Raises:
        ValueError: if the shape or the strength does not suit, see :func:`watermark.effect.effect`.
    """
    rings, shared = marked_rings(key, shape), shared_part(key, shape, strength)
    marked = np.stack([z[list(rings.channels)] for z in marked_noises(key, shape, strength, 64)])
    plain = np.random.default_rng(0).standard_normal(marked.shape)
    shown = rings.channels[:4]
    figure = Figure(figsize=(3 * len(shown) + 8, 3.4), layout="constrained")
    *images, values, spectrum = figure.subplots(1, len(shown) + 2, width_ratios=[1] * len(shown) + [1.3, 1.3])
    for axes, channel, part in zip(images, shown, shared, strict=False):
        scale = max(1.0, float(np.abs(shared).max()))
        drawn = axes.imshow(part, cmap="RdBu_r", vmin=-scale, vmax=scale, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"in every noise, channel {channel}\nlargest {np.abs(part).max():.1f} sd", fontsize=9)
    figure.colorbar(drawn, ax=images[-1], shrink=0.8, label="sd")
    show_values(values, marked)
    show_power(spectrum, marked, plain, rings)
    figure.suptitle("The key's pattern: keep this figure as secret as the key", fontsize=9, color=GREY)
    return figure


def show_values(axes: Axes, noise: NDArray[np.float64]) -> None:
    """Draw the histogram of noise beside the density of N(0, 1)."""
    reach = max(5.0, float(np.abs(noise).max()))
    edges = np.linspace(-reach, reach, 81)
    axes.hist(noise.ravel(), edges.tolist(), density=True, color="#0969da", alpha=0.5, label="marked")
    axes.plot(edges, np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), color=GREY, label="N(0, 1)")
    axes.set_title("values in the marked channels", fontsize=9)
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 1)
    axes.legend(fontsize=8, frameon=False)


def show_power(axes: Axes, marked: NDArray[np.float64], plain: NDArray[np.float64], rings: Rings) -> None:
    """Draw the mean power of noises (…, H, W) at every radius, that of a white bin being 1."""
    height, width = rings.index.shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * min(height, width)
    radii = np.arange(1, min(height, width) // 2)
    for noise, colour, label in ((plain, GREY, "plain"), (marked, "#0969da", "marked")):
        power = (np.abs(np.fft.fft2(noise)) ** 2 / (height * width)).mean(tuple(range(noise.ndim - 2)))
        means = [power[np.rint(radius) == r].mean() for r in radii]
        axes.plot(radii, means, "o-", ms=3, color=colour, label=label)
    axes.axvspan(rings.radii[0] - 0.5, rings.radii[-1] + 0.5, color="0.93", zorder=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("radius (cycles across the shorter side)")
    axes.set_title("mean power in the marked channels", fontsize=9)
    axes.legend(fontsize=8, frameon=False)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure, readable by its owner alone, since most show a key; the suffix decides the format.

    Raises:
        ValueError: if there is no such format.
        OSError: if it cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix[1:] or "png")
    with appearing(path, private=True) as part:
        part.write_bytes(drawn.getvalue())
