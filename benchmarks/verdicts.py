"""Do the p-values hold, and does the mark come back? On Sapling, with its own pictures and with photographs.

    python -m benchmarks.verdicts            128 pictures of each kind, about half an hour on two cores
    python -m benchmarks.verdicts --quick    8 of each, a few minutes

Every picture is inverted twice, by the encoder alone and by decoder inversion. Nulls are unmarked pictures,
pictures that carry another key, and crops of photographs (all from the same two, so far from independent). Each
null is tested with one key of its own, for a rate with an exact interval, and with 2,000 random keys, for a rate
averaged over keys. The usual test, t on bins with their number for degrees of freedom, runs on the same recovered
noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from scipy import stats

from benchmarks.record import RESULTS, rate, write
from inversion import LatentDiffusionModel
from inversion.model import data_folder
from watermark.demo import jpeg, photographs
from watermark.features import key_vector, noise_vector
from watermark.generate import generate
from watermark.keys import Pattern, RingKey
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import from_image
from watermark.rings import rings_for
from watermark.verify import Verifier

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
DECODERS = ("encoder", "anderson")
SEED, RANDOM_KEYS, BATCH = 7, 2000, 8
Array = NDArray[np.float64]


def p_values(y: Array, energy: Array, k: Array, bins: int) -> dict[str, Array]:
    """P (images, keys) of ring sums y (images, m) for key vectors k (keys, m), by the two tests."""
    projection = y @ (k / np.linalg.norm(k, axis=1, keepdims=True)).T
    cosines = {
        "rings": (projection / np.linalg.norm(y, axis=1, keepdims=True), y.shape[1] - 1),
        "bins": (projection / np.sqrt(energy)[:, None], bins - 1),
    }
    return {name: stats.t.sf(r * np.sqrt(dof / (1 - r**2)), dof) for name, (r, dof) in cosines.items()}


def images_of(
    kinds: dict[str, int], model: LatentDiffusionModel, keys: list[RingKey]
) -> Iterator[tuple[str, Image.Image]]:
    """All pictures with their kinds; marked picture i carries key i."""
    prompts = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    for i in range(0, kinds["marked"], BATCH):
        for j in range(i, min(i + BATCH, kinds["marked"])):
            (made,) = generate(model, [prompts[j % len(prompts)]], key=keys[j], seed=SEED + j)
            yield "marked", made.image
            yield "marked, JPEG 75", jpeg(made.image)
    chosen = [prompts[j % len(prompts)] for j in range(kinds["unmarked"])]
    for made in generate(model, chosen, key=None, seed=SEED + 10**6):
        yield "unmarked", made.image
    for image in photographs(kinds["photographs"], model.image_size):
        yield "photographs", image


def measure(count: int) -> dict[str, dict[str, tuple[Array, Array]]]:
    """Ring sums and energies of every kind of picture under both decoders."""
    torch.manual_seed(0)
    model = LatentDiffusionModel.load("sapling")
    keys = key_list(count)
    kinds = {"marked": count, "unmarked": count, "photographs": count}
    found: dict[str, dict[str, list[tuple[Array, Array]]]] = {}
    pending: list[tuple[str, Image.Image]] = []

    def flush() -> None:
        x = as_tensor([fit(from_image(image), model.image_size)[0] for _, image in pending])
        for decoder in DECODERS:
            noise = Verifier(model, {"any": keys[0]}, decoder=decoder).recover_noise(x)
            y, energy = noise_vector(noise, Pattern("rings"))
            for (kind, _), row in zip(pending, zip(y, energy, strict=True), strict=True):
                found.setdefault(kind, {}).setdefault(decoder, []).append(row)
        pending.clear()

    for item in track(images_of(kinds, model, keys), "pictures", 4 * count, console=Console(stderr=True)):
        pending.append(item)
        if len(pending) == BATCH:
            flush()
    if pending:
        flush()
    return {
        kind: {d: (np.array([y for y, _ in rows]), np.array([e for _, e in rows])) for d, rows in by.items()}
        for kind, by in found.items()
    }


def key_list(count: int) -> list[RingKey]:
    """The keys of the run, the same every time."""
    return [RingKey(hashlib.sha256(f"benchmark {i}".encode()).digest(), Pattern("rings")) for i in range(count)]


def analyse(data: dict[str, dict[str, tuple[Array, Array]]], shape: tuple[int, ...]) -> tuple[dict, dict]:
    """Rates for the result file, and the p-values behind them for the figure."""
    bins = len(rings_for(shape).channels) * int(rings_for(shape).bins.sum())
    count = len(data["marked"]["encoder"][0])
    own = np.stack([key_vector(key, shape) for key in key_list(count)])
    random_keys = np.random.default_rng(SEED).standard_normal((RANDOM_KEYS, own.shape[1]))
    result: dict = {"nulls": {}, "marked": {}, "rings": own.shape[1], "bins": bins}
    curves: dict = {"nulls": {}, "marked": {}}
    families = {"unmarked": "unmarked", "another key": "marked", "photographs": "photographs"}
    for name, kind in families.items():
        for decoder in DECODERS:
            y, energy = data[kind][decoder]
            one = p_values(y, energy, np.roll(own, 1, axis=0), bins)
            many = p_values(y, energy, random_keys, bins)
            for test in one:
                p = np.diagonal(one[test])
                result["nulls"][f"{name} | {decoder} | {test}"] = {
                    "one key an image": {f"{a:g}": rate(int((p <= a).sum()), len(p)) for a in LEVELS},
                    "averaged over keys": {f"{a:g}": float((many[test] <= a).mean()) for a in LEVELS},
                    "worst key at 1e-3": float((many[test] <= 1e-3).mean(0).max()),
                }
                curves["nulls"][name, decoder, test] = np.sort(many[test], axis=None)
    for kind in ("marked", "marked, JPEG 75"):
        for decoder in DECODERS:
            y, energy = data[kind][decoder]
            p = np.diagonal(p_values(y, energy, own, bins)["rings"])
            rho = (y * own).sum(1) / np.linalg.norm(own, axis=1) / np.sqrt(energy)
            result["marked"][f"{kind} | {decoder}"] = {
                "found": {f"{a:g}": rate(int((p <= a).sum()), len(p)) for a in LEVELS},
                "p median": float(np.median(p)),
                "p worst": float(p.max()),
                "rho mean": float(rho.mean()),
                "rho min": float(rho.min()),
            }
            curves["marked"][kind, decoder] = np.sort(p)
        both = [np.diagonal(p_values(*data[kind][d], own, bins)["rings"]) for d in DECODERS]
        test = stats.wilcoxon(np.log10(both[0]), np.log10(both[1]))
        better = int((both[1] < both[0]).sum())
        result["marked"][f"{kind} | decoder inversion against encoder"] = {
            "smaller p": rate(better, count),
            "median decades gained": float(np.median(np.log10(both[0]) - np.log10(both[1]))),
            "wilcoxon p": float(test.pvalue),
        }
    return result, curves


def draw(curves: dict, path: Path) -> None:
    """Null rates against nominal ones, and the p-values of marked pictures."""
    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = np.logspace(-7, 0, 200)
    colours = {"unmarked": "#0969da", "another key": "#cf222e", "photographs": "#bf8700"}
    for (name, decoder, test), p in curves["nulls"].items():
        if decoder == "anderson":
            observed = np.searchsorted(p, grid, side="right") / len(p)
            style = "-" if test == "rings" else ":"
            label = f"{name}, {'this test' if test == 'rings' else 'usual t on bins'}"
            left.loglog(grid, np.where(observed > 0, observed, np.nan), style, color=colours[name], label=label)
    left.loglog(grid, grid, color="0.6", lw=4, alpha=0.4, label="exact", zorder=0)
    left.set(
        xlabel="nominal level", ylabel="false positive rate, averaged over keys", xlim=(1e-7, 1), ylim=(1e-7, 1)
    )
    left.legend(fontsize=8)
    for (kind, decoder), p in curves["marked"].items():
        style = "-" if decoder == "anderson" else "--"
        colour = "#1a7f37" if kind == "marked" else "#8250df"
        label = f"{kind}, {'decoder inversion' if decoder == 'anderson' else 'encoder only'}"
        right.step(p, np.arange(1, len(p) + 1) / len(p), style, where="post", color=colour, label=label)
    right.axvline(1e-6, color="0.6", lw=1)
    right.annotate("default level", (1e-6, 0.5), rotation=90, va="center", ha="right", fontsize=8, color="0.4")
    right.set(xscale="log", xlabel="level", ylabel="marked pictures found", ylim=(0, 1.01))
    right.legend(fontsize=8)
    figure.savefig(path)


def readme_table(result: dict) -> str:
    """The two tables that the README shows, in Markdown."""
    lines = [
        "| pictures without the key | p ≤ 1e-2 | p ≤ 1e-3 | p ≤ 1e-4 | one key each, p ≤ 1e-2 "
        "| usual t on bins, p ≤ 1e-6 |",
        "|---|---|---|---|---|---|",
    ]
    for family in ("unmarked", "another key", "photographs"):
        ours, usual = (result["nulls"][f"{family} | anderson | {test}"] for test in ("rings", "bins"))
        mean, single = ours["averaged over keys"], ours["one key an image"]["0.01"]
        cells = [f"{mean[level]:.1e}" for level in ("0.01", "0.001", "0.0001")]
        cells.append(f"{single['hits']} of {single['trials']}")
        lines.append(f"| {family} | {' | '.join(cells)} | {usual['averaged over keys']['1e-06']:.1e} |")
    lines += [
        "",
        "| pictures with the key | found at p ≤ 1e-6 | 95 % interval | median p | mean ρ |",
        "|---|---|---|---|---|",
    ]
    for kind in ("marked", "marked, JPEG 75"):
        for decoder, name in (("encoder", "encoder only"), ("anderson", "decoder inversion")):
            row = result["marked"][f"{kind} | {decoder}"]
            found = row["found"]["1e-06"]
            low, high = found["ci95"]
            lines.append(
                f"| {kind}, {name} | {found['hits']} of {found['trials']} | {low:.3f} … {high:.3f} "
                f"| {row['p median']:.0e} | {row['rho mean']:.2f} |"
            )
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="8 pictures of each kind instead of 128.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure false positives and detection on Sapling."""
    count = 8 if quick else 128
    result, curves = analyse(measure(count), (1, 4, 32, 32))
    settings = {"pictures of each kind": count, "seed": SEED, "random keys": RANDOM_KEYS, "quick": quick}
    path = write("verdicts", {"settings": settings} | result, output)
    draw(curves, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
