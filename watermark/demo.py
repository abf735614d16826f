"""The demonstration: mark, verify, compress, verify again, next to pictures that carry no mark."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from inversion import LatentDiffusionModel
from inversion.embedded import data_folder
from watermark.files import appearing
from watermark.generate import generate
from watermark.keystore.store import KeyStore
from watermark.plots import gallery_figure, save
from watermark.verdict import WATERMARKED, Verdict
from watermark.verify import Verifier, with_calibration

JPEG_QUALITY = 75
SEED = 2024

Track = Callable[[str, int, int], None]
"""Called with a description, the steps done and their number."""


@dataclass(frozen=True)
class Group:
    """Images of one kind with their verdicts."""

    title: str
    marked: bool
    verdicts: tuple[Verdict, ...]

    @property
    def found(self) -> int:
        """How many were found to be watermarked."""
        return sum(v.status == WATERMARKED for v in self.verdicts)


def run(folder: Path, *, fpr: float, track: Track) -> tuple[list[Group], Path]:
    """Write the demonstration's images, key store and figure into a folder.

    Args:
        folder: made if missing; a key named ``demo`` in its ``keys.db`` is used again.
        fpr: level of the test.
        track: progress callback.

    Returns:
        The groups of verdicts, and the path of the figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = KeyStore(folder / "keys.db")
    if "demo" not in {entry.name for entry in store.list()}:
        store.create("demo", label="treering demo")
    key = store.get("demo")
    model = LatentDiffusionModel.load("sapling")
    prompts = (data_folder() / "prompts" / "demo.txt").read_text(encoding="utf-8").splitlines()

    def pictures(which: str) -> list[Image.Image]:
        made = generate(
            model,
            prompts,
            key=key if which == "marked" else None,
            seed=SEED,
            progress=lambda done, total: track(f"generating {len(prompts)} {which} pictures", done, total),
        )
        return [g.image for g in made]

    marked = pictures("marked")
    sets = [
        ("marked", "marked", True, marked),
        ("jpeg", f"marked, then JPEG at quality {JPEG_QUALITY}", True, [jpeg(image) for image in marked]),
        ("unmarked", "unmarked, same prompts and seeds", False, pictures("unmarked")),
        ("photo", "photographs", False, photographs(len(prompts), model.image_size)),
    ]
    verifier = with_calibration(Verifier(model, {"demo": key}, fpr=fpr))
    groups, rows = [], []
    for name, title, is_marked, images in sets:
        paths = [
            write(image, folder / f"{name}-{i}.{'jpg' if name == 'jpeg' else 'png'}")
            for i, image in enumerate(images)
        ]
        results = []
        for examined in verifier.examine(paths):
            results.append(examined)
            track(f"verifying: {title}", len(results), len(images))
        groups.append(Group(title, is_marked, tuple(e.verdict for e in results)))
        rows.append((title, [(im, e) for im, e in zip(images, results, strict=True)]))
    figure = folder / "demo.png"
    save(gallery_figure(rows, key), figure)
    return groups, figure


def photographs(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Square crops of scikit-learn's two photographs, at several scales, resized to (height, width)."""
    sources = [Image.fromarray(a) for a in load_sample_images().images]
    rng = np.random.default_rng(SEED)
    crops = []
    for i in range(count):
        source = sources[i % len(sources)]
        side = int(rng.integers(200, min(source.size) + 1))
        left, top = (int(rng.integers(0, n - side + 1)) for n in source.size)
        crops.append(source.crop((left, top, left + side, top + side)).resize(size[::-1], Image.Resampling.LANCZOS))
    return crops


def jpeg(image: Image.Image) -> Image.Image:
    """The image after JPEG compression."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer)


def write(image: Image.Image, path: Path) -> Path:
    """Save an image; a JPEG keeps the coefficients that it has."""
    with appearing(path) as part:
        if image.format == "JPEG":
            image.save(part, quality="keep")
        else:
            image.save(part)
    return path
