"""Pictures that commands write: whole or not at all, over no other file, and such that a verifier reads them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.commands.errors import Trouble

if TYPE_CHECKING:
    from PIL import Image


def write_png(image: Image.Image, file: Path) -> None:
    """Write a PNG, read it back, and only then give it its name.

    Raises:
        OSError: if it cannot be written, or the file exists by now.
        Trouble: if it does not read as it was written, because it is too large to.
    """
    import numpy as np

    from watermark.files import appearing
    from watermark.reading.images import ImageError, read_picture

    with appearing(file, replace=False) as part:
        image.save(part, "PNG")
        try:
            same = np.array_equal(read_picture(part).pixels, np.asarray(image))
        except ImageError as error:
            raise Trouble(f"{file} is not written, as it could not be verified: {error}") from error
        if not same:
            raise Trouble(f"{file} is not written: it does not read back as it should")


def check_new(*files: Path) -> None:
    """Refuse names that PNG files cannot be written to: of other formats, taken, the same twice, of no folder.

    Raises:
        Trouble: with the reason.
        OSError: if the folder cannot be written to.
    """
    for i, file in enumerate(files):
        if file.suffix.lower() != ".png":
            raise Trouble(f"{file} is not a .png: other formats would lose what was computed")
        if os.path.realpath(file) in map(os.path.realpath, files[:i]):
            raise Trouble(f"two pictures would be written to {file}")
        if not file.absolute().parent.is_dir():
            raise Trouble(f"there is no folder {file.absolute().parent}")
        if file.exists():
            raise Trouble(f"{file} exists; choose another name")
    for folder in {file.absolute().parent for file in files}:
        check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raise OSError now if a file cannot be made in a folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass
