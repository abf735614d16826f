"""How surely the pictures of ``another key`` show their keys: by decoder inversion, shrunk or not, and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.null_images import OWN, own_key
from benchmarks.power import POWER_LEVELS
from benchmarks.rates import tidy
from benchmarks.record import rate
from watermark.features import Array
from watermark.search import key_matrix, search_vectors
from watermark.transforms import IDENTITY, plain_transforms

Json = dict[str, Any]

AGAINST = {
    "clean": "encoder alone",
    "all the way": "encoder alone",
    "JPEG 75": "JPEG 75, encoder alone",
    "JPEG 75, all the way": "JPEG 75, encoder alone",
}
"""Ways to recover noise by decoder inversion → by the encoder, of the same pictures."""


def marked(noise: Mapping[str, NDArray[np.float32]]) -> Json:
    """Of every pattern the pictures that carry it, in every way that their noise was recovered."""
    return {kind: marked_with(kind, noise) for kind in OWN}


def marked_with(kind: str, noise: Mapping[str, NDArray[np.float32]]) -> Json:
    """How surely the pictures with keys of a pattern show them, as they are and through the default search.

    Noise is not whitened: there are null images for one of the ways alone. What is found is counted over all of a
    way; medians and means are over the pictures that were recovered in all ways.
    """
    out: Json = {}
    fewest = min(len(z) for name, z in noise.items() if name.startswith("another key"))
    same = len(range(OWN.index(kind), fewest, len(OWN)))
    found: dict[str, Array] = {}
    for name, z in noise.items():
        if not name.startswith("another key"):
            continue
        way = name.partition(" | ")[2] or "clean"
        shape = z.shape[1:]
        rows = []
        for i in range(OWN.index(kind), len(z), len(OWN)):
            each, key = z[i : i + 1].astype(np.float64), own_key(i)
            direction = key_matrix([key], each.shape)
            (alone,), (searched,) = (
                search_vectors(each, direction, key.pattern, places)
                for places in (IDENTITY, plain_transforms(shape))
            )
            rows.append((alone.p_value, searched.p_value, alone.rho))
        p, searched_p, rho = np.array(rows).T
        found[way] = p
        out[way] = {
            "alone": {f"{a:g}": rate(int((p <= a).sum()), len(p)) for a in POWER_LEVELS},
            "searched": {f"{a:g}": rate(int((searched_p <= a).sum()), len(p)) for a in POWER_LEVELS},
            "p median": tidy(np.median(p[:same])),
            "p worst": tidy(p.max()),
            "rho mean": tidy(rho[:same].mean()),
            "rho least": tidy(rho.min()),
        }
    for way, without in AGAINST.items():
        encoder = found[without]
        ours = found[way][: len(encoder)]
        gained = np.log10(encoder) - np.log10(ours)
        out[f"{way}, against encoder"] = {
            "smaller p": rate(int((gained > 0).sum()), len(encoder)),
            "median decades gained": tidy(np.median(gained)),
            "wilcoxon p": tidy(stats.wilcoxon(gained).pvalue) if gained.any() else 1.0,
        }
    return out
