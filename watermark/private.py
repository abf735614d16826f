"""Files that their owner alone may read, because they hold a key or show one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(file: str | Path, content: bytes) -> None:
    """Write a file of mode 0600 in the place of any other; it appears whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    file = Path(file)
    descriptor, temporary = tempfile.mkstemp(prefix=".treering-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        Path(temporary).replace(file)
    finally:
        Path(temporary).unlink(missing_ok=True)
