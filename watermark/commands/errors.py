"""Exit codes, and the library's errors as messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

CARRIED, NOT_CARRIED, TROUBLE = 0, 1, 2


class Trouble(click.ClickException):
    """A problem that the user can understand and mend."""

    exit_code = TROUBLE

    def format_message(self) -> str:
        """The message, in which a file's name cannot disturb the terminal."""
        from watermark.reports.tables import printable

        return "\n".join(map(printable, self.message.split("\n")))


@contextmanager
def understood() -> Iterator[None]:
    """Turn the library's own errors into messages."""
    from watermark.keystore.store import KeyStoreError

    try:
        yield
    except BrokenPipeError:  # whoever reads has enough: no problem of the user's
        raise
    except (KeyStoreError, OSError, ValueError) as error:
        raise Trouble(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        from inversion.chunks import out_of_memory

        if not out_of_memory(error):
            raise
        raise Trouble("memory ran out; try smaller batches (--batch-size) where there is the option") from error
