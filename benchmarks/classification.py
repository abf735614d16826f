"""Which key does a picture carry, by the latent that decoder inversion finds? Table 2 of Hong et al. 2024.

    python -m benchmarks.classification             two hours on one core; resumes, and once done only analyses
    python -m benchmarks.classification --quick     2 pictures of each kind and few iterations, a minute

Their experiment (https://arxiv.org/abs/2409.18442, Table 2 and Fig. S1) has three keys of constant real rings up to
radius 6 of 64 in channel 0, 100 prompts, guidance 7.5, and gives a picture to the key at the smallest L1 distance.
Here are the same keys, at the same radius in proportion to the latent, and, with all of their rings, in the
channel whose noise the encoder recovers worst; three keys of ``rings`` and of ``dense``; and many weak keys in that
channel. Every picture is inverted by the encoder alone and by our default; those of the published keys and those
without a mark also by both published methods, of the other sets the first, as they are slow. Of the published
methods the iterate of the lowest pixel error is taken. The true latent shows what no decoder
inversion can add to. Noise is recovered with prompt and guidance of the generation, as published, and with neither.

A picture is *classified* if its own key is the nearest. With a class "none" besides, it has to be near enough,
p ≤ 1e-3 corrected for the number of keys, and pictures without a mark must not be. For keys of constant rings p
holds for white noise only. All pictures of a set differ in their noise. The decoder runs in float32, the diffusion
network in bfloat16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor

from benchmarks.classification_keys import NONE, KeySet, angles, distances, key_sets, marked_noise, mcnemar, wilson
from benchmarks.classification_latents import (
    METHODS,
    PROMPTS,
    PUBLISHED,
    SEED,
    TRUE,
    Models,
    Run,
    file_of,
    pictures,
    recovered,
)
from benchmarks.classification_report import draw, readme_table
from benchmarks.kept import kept
from benchmarks.record import RESULTS, peak_memory, resume, write
from inversion import LatentDiffusionModel, invert_decoder
from inversion.model import data_folder
from watermark.features import Array
from watermark.foreign import ArrayKey

LEVEL = 1e-3
ANGLE, L1 = "angle", "L1"

FULL = Run(most=300, iterations=100, steps=25, inversion_steps=10)
QUICK = Run(most=2, iterations=2, steps=2, inversion_steps=2)


def classify(own: KeySet, rule: str, z: Array, unmarked: Array) -> dict[str, Any]:
    """What a rule says of noise with the keys of a set, and of noise without any.

    Returns ``right``, a digit a picture; ``unmarked named``, how many pictures without a mark are given a key; and
    for a few keys the confusion matrix, a row for each true key and a column for each answer, the last ones none.
    """
    truth = np.array([own.key_of(i) for i in range(len(z))])
    nobody = len(own.keys)
    closest, answers = [], []
    for noise in (z, unmarked):
        if rule == L1:
            best = distances([key for key in own.keys if isinstance(key, ArrayKey)], noise).argmin(1)
            answer = best
        else:
            cosine, p = angles(own, noise)
            best = cosine.argmax(1)
            answer = np.where(nobody * p[np.arange(len(best)), best] <= LEVEL, best, nobody)
        closest.append(best)
        answers.append(answer)
    nearest = closest[0]
    right = nearest == truth
    named = np.concatenate(answers)
    true_class = np.concatenate([truth, np.full(len(unmarked), nobody)])
    out: dict[str, Any] = {
        "right": "".join("01"[int(hit)] for hit in right),
        "classified": wilson(int(right.sum()), len(right)),
        "with none": wilson(int((named == true_class).sum()), len(named)),
        "unmarked named": wilson(int((answers[1] != nobody).sum()), len(unmarked)),
    }
    if nobody <= 4:
        out["confusion"] = confusion_matrix(true_class, named, labels=range(nobody + 1)).tolist()
    return out


def hits(cell: dict[str, Any]) -> NDArray[np.bool_]:
    """(pictures,) whether each is right."""
    return np.array([c == "1" for c in cell["right"]])


def analyse(sets: tuple[KeySet, ...], noise: dict[str, Array]) -> dict[str, Any]:
    """Every set, prompt, rule and method, compared with the encoder and with ours on the same pictures.

    ``shared`` is what a method makes of the pictures that all of them have.
    """
    cells: dict[str, Any] = {}
    for own in sets:
        for prompt in PROMPTS:
            for rule in rules_of(own) if own.keys else ():
                each = {}
                for method in (*METHODS, TRUE):
                    z, unmarked = (noise[f"{name} | {method} | {prompt}"] for name in (own.name, NONE))
                    each[method] = classify(own, rule, z, unmarked)
                names = (own.name, NONE)
                rows = [min(len(noise[f"{n} | {m} | {prompt}"]) for m in METHODS) for n in names]
                for method, cell in each.items():
                    common = [noise[f"{n} | {method} | {prompt}"][:k] for n, k in zip(names, rows, strict=True)]
                    cell["shared"] = classify(own, rule, *common)
                    for other in ("encoder", "ours"):
                        count = min(len(cell["right"]), len(each[other]["right"]))
                        cell[f"against {other}"] = mcnemar(hits(cell)[:count], hits(each[other])[:count])
                cells[f"{own.name} | {prompt} | {rule}"] = each
    return cells


def rules_of(own: KeySet) -> tuple[str, ...]:
    """Our rule and, for the published keys, theirs."""
    return (ANGLE, L1) if isinstance(own.keys[0], ArrayKey) else (ANGLE,)


def exact(sets: tuple[KeySet, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """How many pictures of every set the rules classify by the very noise (C, h, w) that was marked.

    Constant rings lie in a mask that is not symmetric about the zero frequency. Real noise keeps the Hermitian part
    of what was written, which may be nearer to another key than to its own.
    """
    noise = {
        s.name: torch.cat([marked_noise(s, i, SEED + i, shape) for i in range(s.pictures)]).double().numpy()
        for s in sets
    }
    return {
        f"{own.name} | {rule}": classify(own, rule, noise[own.name], noise[NONE])["classified"]
        for own in sets
        if own.keys
        for rule in rules_of(own)
    }


def recovery(noise: dict[str, Array]) -> dict[str, Any]:
    """How the noise of unmarked pictures correlates with the true one: by method, channel, and radius from 1.

    The published methods have fewer pictures.
    """
    out = {}
    for method in (*METHODS, TRUE):
        for prompt in PROMPTS:
            z = noise[f"{NONE} | {method} | {prompt}"]
            unmarked = KeySet(NONE, (), len(z), 0)
            start = [marked_noise(unmarked, i, SEED + i, z.shape[1:]).double().numpy() for i in range(len(z))]
            a, b = np.fft.fft2(z), np.fft.fft2(np.concatenate(start))
            height, width = z.shape[-2:]
            radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * min(height, width)
            by_radius = []
            for r in range(1, min(height, width) // 2):
                ring = np.rint(radius) == r
                product = (a * b.conj()).real[..., ring].sum(-1)
                energy = (np.abs(a) ** 2)[..., ring].sum(-1) * (np.abs(b) ** 2)[..., ring].sum(-1)
                by_radius.append((product / np.sqrt(energy)).mean(0))
            out[f"{method} | {prompt}"] = np.round(np.transpose(by_radius), 4).tolist()
    return out


def seconds(model: LatentDiffusionModel, x: Tensor, run: Run, rounds: int) -> dict[str, Any]:
    """Seconds of decoder inversion a picture by every method, measured in turns, medians over rounds.

    The published methods are timed for 5 iterations; the others are taken to cost the same, and none to be saved.
    """
    few = min(5, run.iterations)

    def once(name: str) -> Tensor:
        if name == "encoder":
            return model.autoencoder.encode(x)
        steps = steps_of(name, few)
        return invert_decoder(model.autoencoder, x, method=METHODS[name], steps=steps, chunk_size=len(x)).value

    spent: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(rounds + 1):
        for name, each in spent.items():
            start = time.perf_counter()
            once(name).cpu()
            if number:  # the first round warms up
                each.append((time.perf_counter() - start) / len(x))
    median = {name: statistics.median(each) for name, each in spent.items()}
    for name in PUBLISHED:
        evaluation = (median[name] - median["encoder"]) / (few + 1)
        median[name] += (run.iterations - few) * evaluation
    return {"seconds": median, "of the gradient's": {name: t / median["gradient"] for name, t in median.items()}}


def steps_of(method: str, few: int) -> int | None:
    """So few iterations of a published method, which are alike; the default's own number, as it remembers them."""
    return few if method in PUBLISHED else None


def memory(model: LatentDiffusionModel, x: Tensor) -> dict[str, Any]:
    """Peak bytes of decoder inversion by every method, and as multiples of one decoding."""
    rise = peak_memory if model.device.type == "cpu" else partial(peak_on_gpu, model.device)
    base = rise(partial(model.autoencoder.decode, model.autoencoder.encode(x.to(model.device))))
    peaks = {
        name: rise(
            partial(invert_decoder, model.autoencoder, x, method=method, steps=steps_of(name, 2), chunk_size=len(x))
        )
        for name, method in METHODS.items()
    }
    return {name: {"bytes": n, "of one decode": n / base} for name, n in peaks.items()}


def peak_on_gpu(device: torch.device, run: Callable[[], object]) -> int:
    """By how many bytes allocations on a CUDA device rise while a function runs, at most."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


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
    models = Models.load(model)
    channels, height, width = models.decoder.latent_shape
    sets = key_sets((channels, height, width))
    noise = recovered(models, lines, sets, run, output)
    settings = run.settings(models, lines, sets) | {"quick": quick, "level": LEVEL}
    settings["pictures"] = {f"{s.name} | {method}": run.pictures(s, method) for s in sets for method in METHODS}
    result = resume("classification", settings, output)
    result["cells"], result["recovery"] = analyse(sets, noise), recovery(noise)
    result["exact noise"] = exact(sets, models.decoder.latent_shape)
    if "cost" not in result:
        latents = kept(file_of(models, lines, sets, run, output))[f"{NONE} | {TRUE}"]
        x = pictures(models.decoder, torch.from_numpy(latents[: 1 if quick else 4]))
        result["cost"] = seconds(models.decoder, x, run, 1 if quick else 7)
        result["memory"] = memory(models.decoder, x)
    path = write("classification", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
