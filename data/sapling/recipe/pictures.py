"""The pictures that composites are made of: stamps, which are cut-out objects with a name, and wallpapers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

SHORT_SIDE = 640
"""Of wallpapers, in pixels, once they are read."""

LONG_SIDE = 256
"""Of stamps, at most."""

SMALLEST_STAMP, SMALLEST_WALLPAPER = 80, 700
MOST_WORDS = 5

OTHER_FOLDERS = (
    *("symbols", "seasonal", "military", "people"),
    *("sports/cartoon", "town/cartoon", "town/flags", "town/roadsigns"),
)
"""Of Tux Paint's stamps: no single object, no photograph, or people."""

NOT_OBJECTS = (
    *("boom", "eddie the", "eat your", "enter the", "magic stones", "tankers carry", "tux", "wining"),
    *("playing", "spacewalk"),
)
"""Parts of stamps' texts that are a joke, a sentence, or name what nobody would ask for."""

NOT_WALLPAPERS = (
    *("konqui", "screenshot", "symbolic", "focal-ubuntukylin", "greentraditional", "float-into"),
    *("stripes", "goldfish"),
)
"""Parts of the names of those that show a logo, letters, or what would pass for an object."""


@dataclass(frozen=True)
class Stamp:
    """An object: its name, with an article if the package has one, and its picture (RGBA), cut to its outline."""

    name: str
    picture: Image.Image


@dataclass(frozen=True)
class Wallpaper:
    """A background: where it is in its package, and its picture (RGB)."""

    name: str
    picture: Image.Image


def object_name(text: str) -> str:
    """The name in the first line of a stamp's text, or "" where it has none that fits a caption.

    >>> object_name("A baby sheep (a lamb).")
    'a baby sheep'
    """
    line = text.strip().split("\n", 1)[0].lower().replace("’", "'")
    line = re.sub(r"\(.*?\)|[“”\"]", "", line)
    first = re.split(r"[.!?—]", line)[0].replace(",", "")
    name = " ".join(first.split())
    fits = len(name) >= 3 and len(name.split()) <= MOST_WORDS and not any(part in name for part in NOT_OBJECTS)
    return name if fits else ""


def read_stamps(roots: Iterable[Path]) -> list[Stamp]:
    """The stamps that have a picture of pixels, sorted by their file."""
    folders = [root / "usr/share/tuxpaint/stamps" for root in roots]
    files = sorted(
        (file.relative_to(folder).as_posix(), file) for folder in folders for file in folder.rglob("*.png")
    )
    stamps = []
    for name, file in files:
        text = file.with_suffix(".txt")
        if name.startswith(OTHER_FOLDERS) or re.search(r"_(mirror|flip)", name) or not text.is_file():
            continue
        told = object_name(text.read_text(encoding="utf-8"))
        picture = Image.open(file).convert("RGBA")
        box = picture.getchannel("A").getbbox()
        if not told or box is None or max(picture.crop(box).size) < SMALLEST_STAMP:
            continue
        picture = picture.crop(box)
        picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        stamps.append(Stamp(told, picture))
    return stamps


def wallpaper_files(roots: Iterable[Path]) -> list[tuple[str, Path]]:
    """Name and file of every wallpaper, each once: packages have the same one in several sizes."""
    places = [root / "usr/share" / part for root in roots for part in ("backgrounds", "wallpapers")]
    files = sorted(
        (file.relative_to(place).as_posix(), file)
        for place in places
        for file in place.rglob("*")
        if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and not file.is_symlink()
    )
    once: dict[str, tuple[str, Path]] = {}
    for name, file in files:
        if any(part in name.lower() for part in NOT_WALLPAPERS):
            continue
        with Image.open(file) as picture:
            large = min(picture.size) >= SMALLEST_WALLPAPER
        key = Path(name).parent.as_posix() if "/contents/" in name else re.sub(r"_\d+x\d+(?=\.)", "", name)
        if large:
            once.setdefault(key, (name, file))
    return list(once.values())


def read_wallpapers(roots: Sequence[Path], cache: Path) -> list[Wallpaper]:
    """The wallpapers, SHORT_SIDE pixels on their short side; smaller copies are kept, as most are large.

    Those that are transparent somewhere are meant to be seen on a colour, and are left out.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for name, file in track(wallpaper_files(roots), "wallpapers", console=Console(stderr=True)):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        copy = cache / f"{name.replace('/', '-')}-{digest}.png"  # another version of a package has others
        if not copy.exists():
            picture = Image.open(file)
            if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
                continue
            scale = SHORT_SIDE / min(picture.size)
            size = (max(SHORT_SIDE, round(picture.width * scale)), max(SHORT_SIDE, round(picture.height * scale)))
            picture.draft("RGB", (2 * size[0], 2 * size[1]))
            small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
            part = copy.with_suffix(".part")
            small.save(part, "PNG", compress_level=1)
            part.replace(copy)
        found.append(Wallpaper(name, Image.open(copy).convert("RGB")))
    return found
