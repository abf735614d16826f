"""Do the p-values hold for one key used for years, and is the test as strong as one can be? On Sapling.

    python -m benchmarks.calibration            3,000 null pictures, an hour or more on two cores; resumes
    python -m benchmarks.calibration --quick    4 of each family, few keys, the encoder alone; under a minute

Null pictures are of four families: generated ones without a mark; generated ones that carry keys of their own,
``dense`` and ``rings`` in turn, thrown away afterwards; crops of 21 photographs that come with scikit-learn,
matplotlib and scikit-image (install ``.[bench]``); and drawn ones. A fifth, white noise that never was a picture,
shows what the tests do where all their assumptions hold. Crops of one photograph are not independent: intervals of
that family are over photographs, and the two halves of the calibration share none. Nothing is downloaded. The
recovered noise is kept, so that the analysis can be done anew; ``calibration.safetensors`` is the calibration made
of a share of it.

Every key is tried on every picture. *Per key* images are counted, with Clopper–Pearson intervals. *Averaged over
keys* the unit is still the image, or the photograph, and what is averaged its share of keys that are found. Pairs
of image and key are not independent, and are never counted as if they were. Whitening, and counts for keys whose p
takes the noise to be white, come from the other half of the images.

Beside our tests stand those in use: the noncentral chi-square p of Wen et al. 2023
(https://arxiv.org/abs/2305.20030), with twice as many degrees of freedom as there are masked bins, and the
variance of these very bins; an L1 threshold, set for every key on unmarked pictures; and t on bins for keys of
rings, which takes the number of bins for that of independent values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.calibration_report import draw, readme_table
from benchmarks.null_images import FAMILIES, PHOTOGRAPHS
from benchmarks.null_noise import Recovery, recovered, to_ship, verifier_of
from benchmarks.null_tests import WHITE, Nulls, nulls_of, tests
from benchmarks.own_keys import marked
from benchmarks.power import injected, on_white_noise
from benchmarks.rates import PROBABILITIES, bar, quantiles, rates, tidy
from benchmarks.record import RESULTS, write
from benchmarks.usual_recipes import usual_tests
from inversion import LatentDiffusionModel

Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        shipped: how many null pictures of every family, the first ones, make the calibration; multiples of 4, so
            that its halves split every family evenly.
        keys: of every kind.
        power_keys: of the power curves.
        white: samples of white noise that t is tried on, at its own coordinates; the power curves meet a hundredth
            of them.
    """

    quick: bool
    recovery: Recovery
    shipped: tuple[int, ...]
    keys: int
    power_keys: int
    white: int


FULL = Run(
    quick=False,
    recovery=Recovery((1000, 700, 1000, 300), also=256, steps=25, decoder="shrinkage", inversion_steps=10),
    shipped=(300, 300, 300, 100),
    keys=1000,
    power_keys=8,
    white=2_000_000,
)
QUICK = Run(
    quick=True,
    recovery=Recovery((4, 4, 4, 4), also=2, steps=4, decoder="encoder", inversion_steps=2),
    shipped=(4, 4, 4, 4),
    keys=5,
    power_keys=2,
    white=20_000,
)


def analyse(nulls: Nulls, run: Run) -> Json:
    """Everything that depends on null noise alone."""
    shape = nulls.noise.shape[1:]
    result: Json = {"false positives": {}, "quantiles": {"probabilities": tidy(PROBABILITIES), "p": {}}}
    for test in chain(tests(nulls, run.keys), usual_tests(nulls, run.keys)):
        for family in (*FAMILIES, WHITE):
            rows = nulls.of(family)
            p = test.p[rows]
            if not np.isnan(p).any():
                cell = rates(p, nulls.units[rows], test.smallest)
                result["false positives"].setdefault(test.name, {})[family] = cell
                result["quantiles"]["p"].setdefault(test.name, {})[family] = quantiles(p)
    result["bar"] = bar(result["false positives"])
    result["white"] = {kind: on_white_noise(kind, run.white, shape) for kind in ("dense", "rings")}
    result["power"] = injected(nulls, run.power_keys, run.keys, run.white // 100)
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="4 pictures of each family, few keys and the encoder alone.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure false positives per key, and power, on Sapling."""
    run = QUICK if quick else FULL
    model = LatentDiffusionModel.load("sapling", dtype="fp32")
    noise = recovered(model, run.recovery, output)
    verifier = verifier_of(model, run.recovery)
    to_ship(noise, verifier, run.shipped).save(output / "calibration.safetensors")
    settings = run.recovery.settings(model)
    settings |= {
        "quick": run.quick,
        "photographs": sum(map(len, PHOTOGRAPHS.values())),
        "keys": run.keys,
        "keys of power": run.power_keys,
        "calibration": dict(zip(FAMILIES, run.shipped, strict=True)),
    }
    result = {"settings": settings} | analyse(nulls_of(noise, verifier), run) | {"marked": marked(noise)}
    path = write("calibration", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path}, {path.with_suffix('.png')} and {path.with_suffix('.safetensors')}")


if __name__ == "__main__":
    main()
