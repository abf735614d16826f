"""What does a mark cost? Noise, latents and pictures of Sapling with a mark and without, of the same seeds.

    python -m benchmarks.quality             96 pictures of each of 15 kinds, 40 minutes on one core; resumes
    python -m benchmarks.quality --quick     4 of each, of two steps, less than a minute

Every kind of mark has three keys; every key marks pictures of four prompts, eight seeds each. The same seeds make
unmarked pictures. Other seeds make three more sets of these: a reference that pictures are compared with, a
control, which says how large a difference chance makes, and one that decides what is looked at.

- *Distribution*: moments of noise and latents by channel, with Kolmogorov–Smirnov tests against the reference.
- *Fréchet distance* from the reference, less that of the unmarked pictures of the same seeds. The
  features are the diffusion network's innermost activations, which follow what a picture shows, and the energies
  and colours that random convolutions see, which do not depend on the model. Neither needs a download; the numbers
  cannot be compared with FID of Inception features. All are projected to the main directions of the set that is
  compared with none, of unit variance there: with so few pictures a covariance in more dimensions means nothing.
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

from benchmarks.quality_pictures import (
    CONTROL,
    GROUPS,
    OTHERS,
    UNMARKED,
    VIEW,
    Networks,
    Run,
    initial,
    measured,
    settings_of,
)
from benchmarks.quality_report import draw, readme_table
from benchmarks.quality_tests import agreement, distribution, frechet_excess, pairwise, principal, ratio, seen
from benchmarks.record import RESULTS, write
from watermark.features import Array

FULL = Run(keys=3, prompts=4, seeds=8, steps=25, times=(300, 600))
QUICK = Run(keys=1, prompts=2, seeds=2, steps=2, times=(600,))
DIMENSIONS = 16
FEATURES = ("contents", "textures")
SHOWN = tuple(group for group in GROUPS if group not in (OTHERS, VIEW))


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
    per_key = run.prompts * run.seeds
    out: dict[str, Any] = {}
    for group in SHOWN:
        own = {what: look[what](kept[f"{group} | {what}"]) for what in FEATURES}
        plain = {what: look[what](kept[f"{UNMARKED} | {what}"]) for what in FEATURES}
        out[group] = {
            "noise": distribution(noise[group], noise[OTHERS]),
            "latents": distribution(kept[f"{group} | latents"], kept[f"{OTHERS} | latents"]),
            "frechet": {
                what: frechet_excess(own[what], plain[what], look[what](kept[f"{OTHERS} | {what}"]))
                for what in FEATURES
            },
            "diversity": {
                what: ratio(pairwise(own[what], run.seeds), pairwise(plain[what], run.seeds)) for what in FEATURES
            }
            | {
                "pixels": ratio(
                    *(pairwise(pixels[g].reshape(run.pictures, -1), run.seeds) for g in (group, UNMARKED))
                )
            },
            "agreement": agreement(kept[f"{group} | losses"], kept[f"{UNMARKED} | losses"], truth),
            "seen": [
                seen(*(pixels[g][i : i + per_key] for g in (group, UNMARKED, CONTROL)))
                for i in range(0, run.pictures, per_key)
                if group != UNMARKED
            ],
        }
    means = {group: (pixels[group] - pixels[UNMARKED])[:per_key].mean(0) for group in SHOWN}
    return out, means


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
    result = {"settings": settings_of(run) | {"quick": quick, "pictures": run.pictures}, "groups": groups}
    path = write("quality", result, output)
    draw(result, means, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
