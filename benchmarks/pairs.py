"""Two ways of doing something, compared picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.rates import tidy
from benchmarks.record import rate

Json = dict[str, Any]


def compared(theirs: list[float], ours: list[float]) -> Json:
    """By how much ours are smaller: Student's interval of the mean, and Wilcoxon's signed-rank test."""
    gain = np.array(theirs) - np.array(ours)
    half = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain) if len(gain) > 1 else 0.0
    return {
        "gain": tidy(gain.mean()),
        "ci95": tidy([gain.mean() - half, gain.mean() + half]),
        "better": rate(int((gain > 0).sum()), len(gain)),
        "wilcoxon p": tidy(stats.wilcoxon(gain).pvalue) if gain.any() else 1.0,
    }


def sign_flips(values: NDArray[np.floating], units: Sequence[str]) -> float:
    """P, two-sided, that the mean of values is as far from 0 if each unit's were as likely the other way round."""
    _, number = np.unique(list(units), return_inverse=True)
    sums = np.bincount(number, values)
    if len(sums) > 16:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (2**16, len(sums)))
    else:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
    return tidy(np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9))
