"""Which key does a picture carry, by the latent that decoder inversion finds? Table 2 of Hong et al. 2024.

    python -m benchmarks.classification             eight hours on a core; resumes, and once done only analyses
    python -m benchmarks.classification --quick     2 pictures of each kind and few iterations, a minute

Their experiment (https://arxiv.org/abs/2409.18442, Table 2 and Fig. S1) has three keys of constant real rings up to
radius 6 in channel 0, 100 prompts, 50 steps of DDIM at guidance 7.5, 50 steps of naive inversion with prompt and
guidance known, and gives a picture to the key at the smallest L1 distance. Here are the same rings, but for these
differences: Sapling has a latent of 32 × 32 for 64 × 64, so that radius 6 reaches higher frequencies; a set at the
radius in proportion, 3, has fewer rings; noise is recovered with 10 steps of our default, too, and with neither
prompt nor guidance. Beside them are the same rings in the channel whose noise the encoder recovers worst; three
keys of ``rings`` and of ``dense``; and many weak and weaker keys in that channel. Both networks run in float32, as
theirs do.

Every picture is inverted by the encoder alone, and by Anderson acceleration, all the way and shrunk, which is the
default of verification. Both published methods are slow, so that they only invert the pictures of the first set, of
many keys and without a mark; the iterate of the lowest pixel error is taken, where the originals take the last. The
true latent shows what no decoder inversion can add to.

A picture is *classified* if its own key is the nearest: by our statistic, by the L1 distance to what was written,
or by that to what real noise can hold of it (the *Hermitian part*). The published rule compares with the former;
even of the very noise that was marked it takes every picture of one key for another's. With a class "none" besides,
a picture has to be near enough: p ≤ 1e-3 corrected for the number of keys, or by L1 nearer than any of one half of
the unmarked pictures, of which the other half measures false positives. For keys of constant rings p holds for
white noise only.

Methods are compared on the same pictures, by the sign test over prompts. The comparison that matters was chosen
before any of its pictures was made: our default against the encoder, many weaker keys, prompt unknown. All other p
are corrected by Holm's procedure. Intervals are over prompts, and hold for the keys of a set, of which most have
three.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from benchmarks.classification_costs import memory, seconds
from benchmarks.classification_keys import NONE, KeySet, angles, distances, key_sets, marked_noise, mcnemar, share
from benchmarks.classification_latents import (
    KNOWN,
    METHODS,
    TRUE,
    UNKNOWN,
    Run,
    file_of,
    methods_of,
    pictures,
    recovered,
    ways,
)
from benchmarks.classification_report import draw, readme_table
from benchmarks.kept import kept
from benchmarks.rates import tidy
from benchmarks.record import RESULTS, resume, write
from inversion import LatentDiffusionModel
from inversion.embedded import data_folder
from watermark.features import Array
from watermark.foreign import ArrayKey
from watermark.search import holm

LEVEL = 1e-3
ANGLE, L1, HERMITIAN = "angle", "L1", "L1, Hermitian part"
PRIMARY = ("weaker keys", UNKNOWN, ANGLE)
"""Of which set, way and rule the comparison with the encoder matters."""

FULL = Run(most=300, iterations=100, steps=50, inversion_steps=10)
QUICK = Run(most=2, iterations=2, steps=2, inversion_steps=2)


def classify(own: KeySet, rule: str, z: Array, unmarked: Array) -> dict[str, Any]:
    """What a rule says of noise with the keys of a set, and of noise without any.

    Returns ``right``, a digit a picture; ``named right``, those that are near enough, too; how many are near enough
    to no key or to ``another``; ``unmarked named``, how many pictures without a mark are given a key; and for a few
    keys the confusion matrix, a row for each true key and a column for each answer, the last ones none.
    """
    truth = np.array([own.key_of(i) for i in range(len(z))])
    nobody = len(own.keys)
    if rule == ANGLE:
        (closest, answer), (_, others) = (named_by_angle(own, noise) for noise in (z, unmarked))
    else:
        keys = [key for key in own.keys if isinstance(key, ArrayKey)]
        d, without = (distances(keys, noise, hermitian=rule == HERMITIAN) for noise in (z, unmarked))
        limit, without = without[::2].min(), without[1::2]
        closest = d.argmin(1)
        answer = np.where(d.min(1) < limit, closest, nobody)
        others = np.where(without.min(1) < limit, without.argmin(1), nobody)
    right, named = closest == truth, answer == truth
    out: dict[str, Any] = {
        "right": digits(right),
        "classified": share(right, own.per_prompt),
        "named right": digits(named),
        "named": share(named, own.per_prompt),
        "none": int((answer == nobody).sum()),
        "another": int(((answer != nobody) & ~named).sum()),
        "unmarked named": share(others != nobody) if len(others) else None,
    }
    if nobody <= 4:
        true_class = np.concatenate([truth, np.full(len(others), nobody)])
        every = np.concatenate([answer, others])
        out["confusion"] = confusion_matrix(true_class, every, labels=range(nobody + 1)).tolist()
    return out


def named_by_angle(own: KeySet, z: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The nearest key of noise (n, C, h, w), and that or, where it is not near enough, the number of keys."""
    cosine, p = angles(own, z)
    best = cosine.argmax(1)
    near = len(own.keys) * p[np.arange(len(best)), best] <= LEVEL
    return best, np.where(near, best, len(own.keys))


def digits(hit: NDArray[np.bool_]) -> str:
    """One a picture."""
    return "".join("01"[int(h)] for h in hit)


def hits(text: str) -> NDArray[np.bool_]:
    """(pictures,) whether each is right."""
    return np.array([c == "1" for c in text])


def analyse(sets: tuple[KeySet, ...], noise: dict[str, Array]) -> dict[str, Any]:
    """Every set, way, rule and method, compared with the encoder and with ours on the same pictures."""
    cells: dict[str, Any] = {}
    families: dict[str, list[dict[str, Any]]] = {}
    for own in sets:
        for way in ways(own) if own.keys else ():
            for rule in rules_of(own):
                each = {
                    method: classify(own, rule, *(noise[f"{n} | {method} | {way}"] for n in (own.name, NONE)))
                    for method in (*methods_of(own), TRUE)
                }
                cells[f"{own.name} | {way} | {rule}"] = each
                for method, other in product(each, ("encoder", "ours")):
                    for what, name in (
                        ("right", f"against {other}"),
                        ("named right", f"against {other}, with none"),
                    ):
                        one, two = (hits(each[m][what]) for m in (method, other))
                        test = each[method][name] = mcnemar(one, two, own.per_prompt)
                        main = is_primary(own, way, rule) and (method, other, what) == ("ours", "encoder", "right")
                        test["primary"] = main
                        if method not in (other, TRUE) and not main:
                            families.setdefault(other, []).append(test)
    for family in families.values():
        for test, p in zip(family, holm(np.array([test["p"] for test in family])).tolist(), strict=True):
            test["p, Holm"] = tidy(p)
    return cells


def is_primary(own: KeySet, way: str, rule: str) -> bool:
    """Whether a cell is the one whose comparison matters."""
    name, *rest = PRIMARY
    return name in own.name and rest == [way, rule]


def rules_of(own: KeySet) -> tuple[str, ...]:
    """Our rule and, for the published keys, theirs and what it should have been."""
    return (ANGLE, L1, HERMITIAN) if isinstance(own.keys[0], ArrayKey) else (ANGLE,)


def exact(sets: tuple[KeySet, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """What the rules make of the very noise (C, h, w) that was marked.

    Constant rings lie in a mask that is not symmetric about the zero frequency. Real noise keeps the Hermitian part
    of what was written, which may be nearer to another key than to its own.
    """
    noise = {
        s.name: torch.cat([marked_noise(s, i, shape) for i in range(s.pictures)]).double().numpy() for s in sets
    }
    return {
        f"{own.name} | {rule}": classify(own, rule, noise[own.name], noise[NONE])
        for own in sets
        if own.keys
        for rule in rules_of(own)
    }


def recovery(noise: dict[str, Array]) -> dict[str, Any]:
    """How the noise of unmarked pictures correlates with the true one: by method, channel, and radius from 1."""
    out = {}
    for method in (*METHODS, TRUE):
        for way in (KNOWN, UNKNOWN):
            z = noise[f"{NONE} | {method} | {way}"]
            unmarked = KeySet(NONE, (), len(z))
            start = [marked_noise(unmarked, i, z.shape[1:]).double().numpy() for i in range(len(z))]
            a, b = np.fft.fft2(z), np.fft.fft2(np.concatenate(start))
            height, width = z.shape[-2:]
            radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * min(height, width)
            by_radius = []
            for r in range(1, min(height, width) // 2):
                ring = np.rint(radius) == r
                product = (a * b.conj()).real[..., ring].sum(-1)
                energy = (np.abs(a) ** 2)[..., ring].sum(-1) * (np.abs(b) ** 2)[..., ring].sum(-1)
                by_radius.append((product / np.sqrt(energy)).mean(0))
            out[f"{method} | {way}"] = np.round(np.transpose(by_radius), 4).tolist()
    return out


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="2 pictures of each kind and few iterations, to see that it runs.")
@click.option("--model", default="sapling", show_default=True, help="sapling, a diffusers folder, or a hub id.")
@click.option("--prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One prompt a line.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, model: str, prompts: Path | None, output: Path) -> None:
    """Classify pictures by their keys, by every decoder inversion."""
    run = QUICK if quick else FULL
    lines = (prompts or data_folder() / "prompts" / "hundred.txt").read_text(encoding="utf-8").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    loaded = LatentDiffusionModel.load(model, dtype="fp32")
    if len(loaded.latent_shape) != 3:
        raise click.BadParameter(f"{model!r} is a model of videos, and only pictures can be classified")
    channels, height, width = loaded.latent_shape
    sets = key_sets((channels, height, width))
    noise = recovered(loaded, lines, sets, run, output)
    settings = run.settings(loaded, lines, sets) | {"quick": quick, "level": LEVEL}
    settings["pictures"] = {s.name: run.pictures(s) for s in sets}
    result = resume("classification", settings, output)
    result["cells"], result["recovery"] = analyse(sets, noise), recovery(noise)
    result["exact noise"] = exact(sets, loaded.latent_shape)
    if "cost" not in result:
        latents = kept(file_of(loaded, lines, sets, run, output))[f"{NONE} | {TRUE}"]
        x = pictures(loaded, torch.from_numpy(latents[: 1 if quick else 4]))
        result["cost"] = seconds(loaded, x, run, 1 if quick else 7)
        result["memory"] = memory(loaded, x)
    path = write("classification", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
