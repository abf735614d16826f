"""What does a mark cost? Noise, latents and pictures of Sapling with a mark and without, of the same seeds.

    python -m benchmarks.quality             96 pictures of each of 16 kinds, an hour on one core; resumes
    python -m benchmarks.quality --quick     4 of each, of two steps, less than a minute

Every kind of mark has twelve keys; every key marks pictures of two prompts, four seeds each. (Of constant rings
there are four keys, of ``zeros`` one in effect: theirs come again with other prompts, and what is said of them
holds for these keys, not for others.) The same seeds make unmarked pictures. Other seeds make two more sets of
these: a control, which says what the tests make of no mark at all, and one that decides what is looked at.
Intervals and tests are over keys, but those of the Fréchet distance and of noise, which are over pictures; p are by
Holm, over all kinds of mark. All kinds share their seeds, and with them chance.

- *Marked*: which share of the noise's transform the mark changes, and how much of the noise's energy.
- *Distribution*: moments of noise by channel, by Kolmogorov–Smirnov tests against fresh white noise, and of
  latents, against those of the same seeds, by a test that changes the signs of keys' differences.
- *Fréchet distance* from the unmarked pictures of the same seeds, less what random swaps of the two leave. The
  features are the diffusion network's innermost activations, which follow what a picture shows, and the energies
  and colours that random convolutions see, which do not depend on the model. Neither needs a download; the numbers
  cannot be compared with FID of Inception features. All are projected to the main directions of the set that
  decides what is looked at, of unit variance there: with so few pictures a covariance in more dimensions means
  nothing.
- *Diversity*: mean distance between pictures of one key and prompt, as a ratio to unmarked ones. All pictures of a
  key share a part of their noise.
- *Agreement*: whether the diffusion network's own loss tells the true prompt among all that are used.
- *Traces*: what of a key is seen in the mean of its pictures, where rings add up, in the corners.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kept import weights
from benchmarks.quality_pictures import (
    CONTROL,
    GROUPS,
    UNMARKED,
    VIEW,
    Networks,
    Run,
    initial,
    measured,
    settings_of,
)
from benchmarks.quality_report import draw, readme_table
from benchmarks.quality_tests import (
    agreement,
    frechet_excess,
    latent_distribution,
    moments,
    noise_distribution,
    over_keys,
    pairwise,
    principal,
    ratio,
    seen,
    wilcoxon,
)
from benchmarks.record import RESULTS, write
from watermark.features import Array
from watermark.search import holm

FULL = Run(keys=12, prompts=2, seeds=4, steps=25, times=(300, 600))
QUICK = Run(keys=2, prompts=1, seeds=2, steps=2, times=(600,))
FRESH = 4000
"""Samples of fresh white noise."""
DIMENSIONS = 16
FEATURES = ("contents", "textures")
SHOWN = tuple(group for group in GROUPS if group != VIEW)


def analyse(networks: Networks, run: Run, kept: dict[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything about every group, and for the figure the mean difference that its first key makes."""
    channels, height, width = networks.diffusion.latent_shape
    noise = {
        group: torch.cat([initial(group, i, run, (channels, height, width)) for i in range(run.pictures)]).numpy()
        for group in GROUPS
    }
    look = {what: principal(kept[f"{VIEW} | {what}"], min(DIMENSIONS, run.pictures // 4)) for what in FEATURES}
    pixels = {group: shown(networks, kept[f"{group} | latents"]) for group in GROUPS}
    truth = np.arange(run.pictures) // run.seeds
    fresh = moments(np.random.default_rng(0).standard_normal((FRESH, channels, height, width)))
    out: dict[str, Any] = {}
    for group in SHOWN:
        own = {what: look[what](kept[f"{group} | {what}"]) for what in FEATURES}
        plain = {what: look[what](kept[f"{UNMARKED} | {what}"]) for what in FEATURES}
        far = {what: (own[what], plain[what]) for what in FEATURES}
        far["pixels"] = (pixels[group].reshape(run.pictures, -1), pixels[UNMARKED].reshape(run.pictures, -1))
        out[group] = {
            "marked": marked(noise[group], noise[UNMARKED]),
            "noise": noise_distribution(noise[group], fresh),
            "latents": latent_distribution(kept[f"{group} | latents"], kept[f"{UNMARKED} | latents"], run.keys),
            "frechet": {what: frechet_excess(own[what], plain[what]) for what in FEATURES},
            "diversity": {
                what: ratio(pairwise(a, run.seeds), pairwise(b, run.seeds), run.keys)
                for what, (a, b) in far.items()
            },
            "agreement": agreement(kept[f"{group} | losses"], kept[f"{UNMARKED} | losses"], truth, run.keys),
            "traces": None
            if group == UNMARKED
            else traces(pixels[group], pixels[UNMARKED], pixels[CONTROL if group != CONTROL else VIEW], run.keys),
        }
    corrected(out)
    per_key = run.pictures // run.keys
    means = {group: (pixels[group] - pixels[UNMARKED])[:per_key].mean(0) for group in SHOWN}
    return out, means


def marked(noise: Array, plain: Array) -> dict[str, float]:
    """The share of the transform of noise (n, C, h, w) that a mark changes, and of the noise's energy."""
    change = np.fft.fft2(noise.astype(np.float64) - plain)
    bins = (np.abs(change) > 1e-3).any(0).mean()
    return {"bins": float(bins), "energy": float(np.square(noise - plain).mean() / np.square(plain).mean())}


def traces(x: Array, plain: Array, others: Array, keys: int) -> dict[str, Any]:
    """How far the mean of a key's pictures stands out in the corners, beside that of other unmarked ones."""
    each = zip(*(np.array_split(pictures, keys) for pictures in (x, plain, others)), strict=True)
    parts = [seen(own, unmarked, other) for own, unmarked, other in each]
    own, chance = (np.array([part[who]["ratio"] for part in parts]) for who in ("rms", "chance"))
    return over_keys(own) | {"chance": float(chance.mean()), "p": wilcoxon(own - chance)}


def corrected(groups: dict[str, Any]) -> None:
    """Put p by Holm, over all groups with a mark, beside every p."""
    names = [group for group in groups if group not in (UNMARKED, CONTROL)]
    places = [
        *(("noise",), ("latents",), ("traces",), ("agreement", "difference")),
        *((what, feature) for what in ("frechet", "diversity") for feature in FEATURES),
        ("diversity", "pixels"),
    ]
    for place in places:
        cells = []
        for name in names:
            cell = groups[name]
            for part in place:
                cell = cell[part]
            cells.append(cell)
        for cell, p in zip(cells, holm(np.array([cell["p"] for cell in cells])).tolist(), strict=True):
            cell["p, Holm"] = p


def shown(networks: Networks, z: NDArray[np.floating]) -> Array:
    """Pictures (n, 3, H, W) of latents."""
    parts = torch.from_numpy(z).float().split(16)
    return torch.cat([networks.picture(part) for part in parts]).double().numpy()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="4 pictures of each kind, to see that it runs.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure what marks do to pictures of Sapling."""
    run = QUICK if quick else FULL
    networks = Networks.load()
    kept = measured(networks, run, output)
    groups, means = analyse(networks, run, kept)
    settings = settings_of(run) | {"weights": weights("sapling"), "quick": quick, "pictures": run.pictures}
    result = {"settings": settings, "groups": groups}
    path = write("quality", result, output)
    draw(result, means, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
