"""How many images a second ``treering verify -o`` tests, what each stage costs, and how much memory it takes.

    python -m benchmarks.throughput            10,000 files; Linux
    python -m benchmarks.throughput --quick    48 files, some minutes

The files are a few hundred pictures of Sapling, each encoded many times with another text chunk, so that every file
has bytes of its own and none is known from another. They are verified with the encoder alone and two steps of
diffusion inversion: with the default settings 10,000 images take hours, and reading and writing would hardly count.

The ceiling is the networks alone, on the same batches as tensors in memory. Both are measured in turns in one
process, so that a machine that is slower for a while slows both; the ratio is that of each turn. The command is
measured without loading the model, but with the start of its workers. Resident memory is that of the process and
its workers, every second, by ``/proc``.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image, PngImagePlugin
from rich.console import Console
from rich.progress import track

from benchmarks.kept import weights
from benchmarks.record import RESULTS, write
from benchmarks.throughput_report import draw, growth, readme_table
from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion
from inversion.embedded import data_folder
from watermark.batch import verify_files
from watermark.family import Family
from watermark.generate import generate
from watermark.keys import RingKey
from watermark.reading.decoding import Decoded, read_fitted
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import read_bytes, read_picture
from watermark.reports.configuration import configuration
from watermark.reports.journal import Journal
from watermark.transforms import plain_transforms
from watermark.verdict import NOT_DETECTED, Verdict
from watermark.verify import Verifier

SEED = 5
KEY = RingKey(bytes(range(32)))
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Run:
    """How much is measured."""

    quick: bool
    pictures: int
    files: int
    rounds: int
    files_a_round: int
    steps: int = 2
    decoder: str = "encoder"
    batch_size: int = 8
    workers: int = 2


FULL = Run(False, 256, 10_000, 7, 256)
QUICK = Run(True, 4, 48, 2, 16)


def make_files(model: LatentDiffusionModel, run: Run, folder: Path) -> list[str]:
    """Files of generated pictures, each with bytes of its own."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    prompts = [lines[i % len(lines)] for i in range(run.pictures)]
    made = generate(model, prompts, key=KEY, seed=SEED, steps=2 if run.quick else 10, batch_size=run.batch_size)
    images = [one.image for one in track(made, "generating", len(prompts), console=Console(stderr=True))]
    return [encode(images[i % len(images)], i, folder) for i in range(run.files)]


def encode(image: Image.Image, number: int, folder: Path) -> str:
    """One file."""
    text = PngImagePlugin.PngInfo()
    text.add_text("number", str(number))
    file = folder / f"{number:05}.png"
    image.save(file, pnginfo=text)
    return str(file)


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(verifier: Verifier, made_with: str, files: Sequence[str], run: Run, folder: Path) -> dict[str, Any]:
    """Images a second of the networks alone and of the command, in turns."""
    size = verifier.model.image_size
    rates: dict[str, list[float]] = {"networks": [], "command": []}
    for turn in track(range(run.rounds), "in turns", console=Console(stderr=True)):
        names = [files[(turn * run.files_a_round + i) % len(files)] for i in range(run.files_a_round)]
        read = [read_fitted(name, name, size).pixels for name in names]
        batches = as_tensor([pixels for pixels in read if pixels is not None]).split(run.batch_size)
        report = folder / f"turn-{turn}.jsonl"
        parts: dict[str, Callable[[], object]] = {
            "networks": lambda: [verifier.recover_noise(x) for x in batches],  # noqa: B023 - called at once
            "command": lambda: list(verify_files(verifier, names, report, made_with)),  # noqa: B023
        }
        for name in sorted(parts, reverse=bool(turn % 2)):
            rates[name].append(len(names) / seconds(parts[name]))
    ratios = [c / n for c, n in zip(rates["command"], rates["networks"], strict=True)]
    return {"images a second": rates, "ratio": {"median": statistics.median(ratios), "all": ratios}}


def stages(verifier: Verifier, files: Sequence[str], run: Run, folder: Path) -> dict[str, float]:
    """Milliseconds an image of every stage, each on its own, in one process."""
    model, names = verifier.model, files[: run.files_a_round]
    raw = [read_bytes(name) for name in names]
    pictures = [read_picture(name) for name in names]
    pixels = [fit(picture, model.image_size)[0] for picture in pictures]
    other = [Image.fromarray(p).resize((192, 160)) for p in pixels]
    batches = as_tensor(pixels).split(run.batch_size)
    z_0 = [invert_decoder(model.autoencoder, x, method=run.decoder).value for x in batches]
    noise = [invert_diffusion(model, z, steps=run.steps).value.numpy() for z in z_0]
    family = Family(verifier.keys, plain_transforms(model.latent_shape), model.latent_shape, verifier.fpr, None)
    family.test(noise[0])
    row = asdict(Verdict(names[0], NOT_DETECTED, "key", 0.5, 0.0, sha256="ab" * 32)) | {"configuration": "0" * 40}
    odd = [read_fitted(image, "", model.image_size) for image in other]

    def write_rows() -> None:
        journal = Journal(
            folder / "rows.jsonl", resume=False, check=lambda _: None, counts=lambda _: True, batch=run.batch_size
        )
        for i in range(len(names)):
            journal.add(row | {"name": names[i]}, f"{i:064x}")
        journal.finish()
        journal.close()

    work: dict[str, Callable[[], object]] = {
        "reading": lambda: [read_bytes(name) for name in names],
        "decoding": lambda: [Image.open(io.BytesIO(data)).convert("RGB").load() for data in raw],
        "fitting, the right size": lambda: [fit(picture, model.image_size) for picture in pictures],
        "fitting, 192 × 160": lambda: [read_fitted(image, "", model.image_size) for image in other],
        "decoder inversion": lambda: [invert_decoder(model.autoencoder, x, method=run.decoder) for x in batches],
        "diffusion inversion": lambda: [invert_diffusion(model, z, steps=run.steps) for z in z_0],
        "test": lambda: [family.test(z) for z in noise],
        "writing": write_rows,
    }
    assert all(isinstance(item, Decoded) and item.status is None for item in odd)
    return {name: 1000 * seconds(part) / len(names) for name, part in work.items()}


def resident() -> int:
    """Bytes of memory of this process and all below it."""
    parents, pages = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it is gone
                continue
            parents[int(entry.name)], pages[int(entry.name)] = int(fields[1]), int(fields[21])
    total, level = 0, [os.getpid()]
    while level:
        total += sum(pages.get(pid, 0) for pid in level)
        level = [pid for pid, parent in parents.items() if parent in level]
    return total * PAGE


@contextmanager
def sampled(done: Callable[[], int], every: float) -> Iterator[list[tuple[int, int]]]:
    """(images done, bytes of memory) while something runs."""
    samples: list[tuple[int, int]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(every):
            samples.append((done(), resident()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def memory(verifier: Verifier, made_with: str, files: Sequence[str], run: Run, folder: Path) -> dict[str, Any]:
    """Memory during one run over all files."""
    done = 0
    with sampled(lambda: done, 0.1 if run.quick else 1.0) as samples:
        start = time.perf_counter()
        verdicts = verify_files(verifier, files, folder / "all.jsonl", made_with)
        for _ in track(verdicts, "all files", len(files), console=Console(stderr=True)):
            done += 1
        took = time.perf_counter() - start
    return {
        "images": done,
        "seconds": took,
        "MiB at most": max(size for _, size in samples) / 2**20,
        "samples": [[images, round(size / 2**20, 1)] for images, size in samples[:: max(1, len(samples) // 500)]],
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="48 files, some minutes.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure the throughput and the memory of verification on Sapling."""
    run = QUICK if quick else FULL
    model = LatentDiffusionModel.load("sapling", dtype="fp32")
    verifier = Verifier(
        model,
        {"key": KEY},
        steps=run.steps,
        decoder=run.decoder,
        batch_size=run.batch_size,
        workers=run.workers,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_files(model, run, folder)
        made_with = configuration(verifier)
        result = {
            "settings": asdict(run) | {"weights": weights("sapling")},
            "in turns": in_turns(verifier, made_with, files, run, folder),
            "milliseconds an image": stages(verifier, files, run, folder),
            "memory": memory(verifier, made_with, files, run, folder),
        }
    result["memory"]["growth"] = growth(result["memory"]["samples"])
    path = write("throughput", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
