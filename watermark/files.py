"""Files that appear whole or not at all, and those that can be read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def regular(file: str | Path) -> Path:
    """A file that can be read more than once, and does not keep its reader waiting.

    Raises:
        OSError: if it is a pipe, a device or a folder.
    """
    file = Path(file)
    if file.exists() and not file.is_file():
        raise OSError(f"{file} is a pipe, a device or a folder, not a file")
    return file


@contextmanager
def appearing(file: str | Path, *, replace: bool = True, private: bool = False) -> Iterator[Path]:
    """An empty file beside the one that is meant, to be written to; it gets the name when all went well.

    Args:
        file: the name. A link is replaced itself, not what it points to.
        replace: whether it may take the place of another file.
        private: whether its owner alone may read it, because it holds a key or shows one.

    Raises:
        FileExistsError: if there is a file of the name, which must not be replaced.
        OSError: if it cannot be written.
    """
    file = Path(file)
    part = file.with_name(f".treering-{os.getpid()}-{secrets.token_hex(4)}{file.suffix}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        if replace:
            part.replace(file)
        else:
            place(part, file)
    finally:
        part.unlink(missing_ok=True)


def place(part: Path, file: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(part, file)  # unlike a renamed file, it is never put over another
    except FileExistsError:
        raise FileExistsError(f"{file} exists by now") from None
    except OSError:  # no hard links here, as on a FAT disk: reserve the name, then replace what holds it
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
        try:
            part.replace(file)
        except OSError:
            file.unlink(missing_ok=True)
            raise
