"""What verdicts depend on beside the image, in a few digits that tell nothing about a secret."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.reports.row import Row

if TYPE_CHECKING:
    from watermark.verify import Verifier

FORMAT = 2  # changes when verdicts do
EXACT = 16  # hexadecimal digits that must be the same; each pair of the others may differ by the tolerance
TOLERANCE = 2


def configuration(verifier: Verifier, also: Any = None) -> str:  # noqa: ANN401
    """40 hexadecimal digits that name how images are tested: 16 for the settings, 24 for what the model does.

    A key of ours counts by its public id, which tells nothing about its secret. One of other code has none that
    does not: it counts by its name and size, and whatever else is known of it is for ``also``.
    """
    from inversion.fingerprint import SIZE, fingerprint
    from watermark.calibration import digest
    from watermark.foreign import ArrayKey
    from watermark.transforms import plain_transforms

    keys: dict[str, Any] = {}
    for name, key in verifier.keys.items():
        if isinstance(key, ArrayKey):
            keys[name] = [*key.values.shape, int(key.mask.sum()), key.draws is not None]
        else:
            keys[name] = [key.id, asdict(key.pattern)]
    model, transforms = verifier.model, verifier.transforms
    settings = {
        "format": FORMAT,
        "keys": keys,
        "noise": asdict(verifier.settings) | {"model": ""},  # what it does counts, not where it is kept
        "dtype": str(model.dtype),
        "fpr": verifier.fpr,
        "transforms": [asdict(t) for t in transforms or plain_transforms(model.latent_shape)],
        "calibration": None if verifier.calibration is None else digest(verifier.calibration),
        "numbers": repr(verifier.numbers),
        "also": also,
    }
    exact = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:EXACT]
    answers = fingerprint(model).reshape(3, SIZE)[:, :4] * SIZE**0.5
    return exact + np.clip(np.rint(32 * answers), -127, 127).astype(np.int8).tobytes().hex()


def agree(a: str, b: str) -> bool:
    """Whether two configurations are the same, up to rounding in what the model does."""
    if len(a) != len(b) or a[:EXACT] != b[:EXACT]:
        return False
    levels = (np.frombuffer(bytes.fromhex(text[EXACT:]), np.int8).astype(int) for text in (a, b))
    return int(np.abs(np.subtract(*levels)).max()) <= TOLERANCE


@dataclass
class Configuration:
    """That of a report: of this run, or the one that agrees with it and is there already."""

    text: str
    file: Path

    def check(self, row: Row) -> None:
        """Raise ValueError unless a row was made like this."""
        there = str(row.get("configuration"))
        if there == self.text:
            return
        if not agree(there, self.text):
            raise ValueError(
                f"{self.file} was made with other keys, settings, calibration or model; choose another name"
            )
        self.text = there
