"""Pictures of recovered noise: its spectrum, where a key's rings would be, and how well they fit."""

from __future__ import annotations

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

from watermark.features import key_spectrum
from watermark.keys import RingKey
from watermark.report import p_text, printable
from watermark.rings import Rings, rings_for
from watermark.verify import WATERMARKED, Verdict

GREEN, GREY = "#1a7f37", "#57606a"


def centred_spectrum(noise: Tensor, channel: int) -> NDArray[np.float64]:
    """Re F of one channel of noise (C, h, w), zero frequency in the middle, a white bin having unit variance."""
    z = noise[channel].to(torch.float64).numpy()
    return np.fft.fftshift(np.fft.fft2(z)).real / np.sqrt(z.size / 2)


def show_spectrum(axes: Axes, values: NDArray[np.float64], rings: Rings) -> None:
    """Draw the middle of a centred spectrum, out to a little more than the outermost ring."""
    height, width = values.shape
    reach = rings.radii[-1] + 2
    middle = values[height // 2 - reach : height // 2 + reach + 1, width // 2 - reach : width // 2 + reach + 1]
    axes.imshow(middle, cmap="RdBu_r", vmin=-3.5, vmax=3.5, interpolation="nearest")
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


def show_agreement(axes: Axes, spectrum: NDArray[np.float64], pattern: NDArray[np.float64], rings: Rings) -> None:
    """Draw the correlation of a centred spectrum with the key's pattern in each ring, with standard errors."""
    index = np.fft.fftshift(rings.index)
    inside = [index == i for i in range(len(rings.radii))]
    values = [float(np.corrcoef(spectrum[bins], pattern[bins])[0, 1]) for bins in inside]
    errors = [1 / np.sqrt(bins.sum() / 2) for bins in inside]
    axes.axhline(0, color="0.8", lw=1)
    axes.errorbar(rings.radii, values, errors, fmt="s", color="#0969da", capsize=2, label="correlation ± s.e.")
    axes.set_ylim(-1, 1)


def inspection_figure(image: NDArray[np.uint8], noise: Tensor, key: RingKey, verdict: Verdict) -> Figure:
    """One image: the picture, its recovered spectrum, the key's pattern, and how they agree ring by ring.

    Args:
        image: (H, W, 3) the picture.
        noise: (C, h, w) its recovered noise.
        key: the key that it was tested for. The figure shows the key's pattern: keep it as secret as the key.
        verdict: the verdict.
    """
    rings = rings_for(tuple(noise.shape), key.pattern)
    patterns = np.fft.fftshift(key_spectrum(key, tuple(noise.shape)).real * np.sqrt(2), axes=(-2, -1))
    profile_of = show_agreement if key.pattern.kind == "dense" else show_profile
    figure = Figure(figsize=(14, 3.5 * len(rings.channels)), layout="constrained")
    axes = figure.subplots(len(rings.channels), 4, width_ratios=[1, 1, 1, 1.5], squeeze=False)
    for row, channel in enumerate(rings.channels):
        picture, recovered, expected, profile = axes[row]
        picture.set_axis_off()
        spectrum = centred_spectrum(noise, channel)
        show_spectrum(recovered, spectrum, rings)
        recovered.set_title(f"recovered noise, Re F, channel {channel}", fontsize=9)
        show_spectrum(expected, patterns[row], rings)
        expected.set_title(f"the pattern of {verdict.key}", fontsize=9)
        profile_of(profile, spectrum, patterns[row], rings)
        profile.set_xlabel("radius (cycles across the shorter side)")
        profile.set_xticks(rings.radii[:: max(1, len(rings.radii) // 8)])
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(printable(Path(verdict.name).name), fontsize=9)
    axes[0, 3].legend(fontsize=8, frameon=False)
    title = f"{verdict.status.replace('_', ' ')}: p = {p_text(verdict.p_value)}, ρ = {verdict.rho or 0:.2f}"
    axes[0, 3].set_title(title, fontsize=10, color=verdict_colour(verdict), fontweight="bold")
    return figure


def gallery_figure(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, Verdict, Tensor]]]]) -> Figure:
    """Groups of images, each a row of pictures above their recovered spectra with p-values.

    Args:
        rows: (title, [(picture, verdict, noise (C, h, w)), …]) for each group.
    """
    rings = rings_for(tuple(rows[0][1][0][2].shape))
    columns = max(len(items) for _, items in rows)
    figure = Figure(figsize=(1.28 * columns + 0.4, 2.95 * len(rows)), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(len(rows), 1, hspace=0.02, squeeze=False)
    for part, (title, items) in zip(parts[:, 0], rows, strict=True):
        found = sum(v.status == WATERMARKED for _, v, _ in items)
        part.suptitle(f"{title}: {found} of {len(items)} found", x=0.01, ha="left", fontsize=11, fontweight="bold")
        axes = part.subplots(2, columns)
        for ax in axes.ravel():
            ax.set_axis_off()
        for (picture, verdict, noise), (above, below) in zip(items, axes.T, strict=False):
            above.imshow(picture)
            below.set_axis_on()
            show_spectrum(below, centred_spectrum(noise, rings.channels[0]), rings)
            for spine in below.spines.values():
                spine.set_color(verdict_colour(verdict))
                spine.set_linewidth(2)
            below.set_xlabel(f"p = {p_text(verdict.p_value)}", fontsize=9, color=verdict_colour(verdict))
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix decides the format."""
    figure.savefig(path)
