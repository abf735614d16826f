"""How often t finds a key put into null noise, beside the best tests there are and the usual recipes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, stats

from benchmarks.null_images import FAMILIES, SEED, secret_key
from benchmarks.null_tests import WHITE, Nulls, Rows
from benchmarks.rates import LEVELS, interval, tidy
from benchmarks.record import rate
from benchmarks.usual_recipes import bins_of, misfits
from watermark.detection import angle_test, scale_of
from watermark.features import Array, key_vector, noise_vector
from watermark.keys import Pattern

Json = dict[str, Any]

POWER_LEVELS = (1e-3, 1e-6)
RHO = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def on_white_noise(kind: str, count: int, shape: tuple[int, ...]) -> Json:
    """False positives of t for one key on so many samples of white noise, drawn at the marked coordinates alone."""
    k = key_vector(secret_key("tested", 0, kind), (1, *shape)).astype(np.float32)
    k /= np.linalg.norm(k)
    rng = np.random.default_rng(SEED)
    cosines = []
    for start in range(0, count, 20_000):
        y = rng.standard_normal((min(20_000, count - start), len(k)), dtype=np.float32)
        cosines.append((y @ k / np.sqrt(np.einsum("ij,ij->i", y, y))).astype(np.float64))
    _, p = angle_test(np.concatenate(cosines), len(k))
    return {
        "dimensions": len(k),
        "found": {f"{a:g}": rate(int((p <= a).sum()), count) for a in (*LEVELS, 1e-5)},
        "kolmogorov p": tidy(stats.kstest(p, "uniform").pvalue),
    }


def formula(size: int, level: float) -> Array:
    """Power of ⟨y, k⟩/‖k‖ with σ known, of M bins at every ρ: Φ((ρ√M − z)/√(1 − ρ²))."""
    rho = np.array(RHO)
    power: Array = stats.norm.cdf((rho * np.sqrt(size) - stats.norm.isf(level)) / np.sqrt(1 - rho**2))
    return power


def t_p(e: Array, k: Array, scale: Array, rho: float) -> Array:
    """P (n, K) of t for y = ρ k + √(1 − ρ²) e, noise (n, d) and keys (K, d), divided by a scale (d,)."""
    a = np.sqrt(1 - rho**2)
    white, white_keys = e / scale, k / scale
    shared = white @ white_keys.T
    size = (rho**2 * (white_keys**2).sum(1)) + 2 * rho * a * shared + a**2 * (white**2).sum(1)[:, None]
    dot = rho * (white_keys * k).sum(1) + a * white @ k.T
    return angle_test(dot / (np.linalg.norm(k, axis=1) * np.sqrt(size)), k.shape[1])[1]


def injected(nulls: Nulls, keys: int, most: int, samples: int) -> Json:
    """Share of keys found that were put into null noise, at every ρ; in white noise, beside Neyman and Pearson.

    Null noise is brought to the energy of white noise of variance 1 in the marked bins before it is mixed with
    the key, so that ρ is what detection reports; recipes get it back at the scale it had. A recipe's threshold is
    the quantile of what it says of nulls of the same family: it has the level by construction, at 1e-3; for 1e-6
    there are too few. Keys are so many, those that set thresholds so many at most, and so many samples are of white
    noise.
    """
    shape = nulls.noise.shape[1:]
    out: Json = {"rho": list(RHO), "formula": {}, "curves": {}, "gap": {}}
    size = bins_of(shape, Pattern())
    out["formula"] = {f"{a:g}": tidy(formula(size, a)) for a in POWER_LEVELS}
    white = np.random.default_rng(SEED + 1).standard_normal((samples, size))
    for kind in ("dense", "rings"):
        pattern = Pattern(kind)
        k = np.stack([key_vector(secret_key("tested", i, kind), (1, *shape)) for i in range(keys)])
        scale = scale_of(nulls.images.whitening(pattern), (1, *shape), pattern)
        own, blocks = white[:, : k.shape[1]], np.arange(len(white)) % 1000
        y, energy = noise_vector(nulls.noise, pattern)
        e = y * np.sqrt(size / energy)[:, None]
        for family in (*FAMILIES, WHITE):
            rows = nulls.of(family)
            noise, units = (own, blocks) if family == WHITE else (e[rows], nulls.units[rows])
            hows = {"as it is": np.ones(1)} | ({} if family == WHITE else {"whitened": scale})
            for how, by in hows.items():
                p = [t_p(noise, k, by, rho) for rho in RHO]
                for a in POWER_LEVELS:
                    shares = np.stack([(each <= a).mean(1) for each in p], axis=1)
                    out["curves"][f"{kind} | {how} | {family} | {a:g}"] = curve(shares, units)
            if kind == "dense":
                own_scale = np.ones(len(own)) if family == WHITE else np.sqrt(energy[rows] / size)
                others = enough_keys(len(noise), most, shape)
                tried = k[: max(1, 8000 // len(noise))]
                found = usual_power(noise, own_scale, tried, others, POWER_LEVELS[0])
                for name, shares in found.items():
                    out["curves"][f"{name} | as it is | {family} | {POWER_LEVELS[0]:g}"] = curve(shares, units)
        out["gap"] |= {f"{kind} | {a:g}": gap(own, k, a) for a in POWER_LEVELS}
    return out


def enough_keys(samples: int, most: int, shape: tuple[int, ...]) -> Array:
    """(K, d) dense keys, as many as make a threshold of 100,000 pairs, if there are so many."""
    count = min(most, -(-100_000 // samples))
    return np.stack([key_vector(secret_key("tested", i), (1, *shape)) for i in range(count)])


def curve(shares: Array, units: Rows) -> dict[str, list[float]]:
    """Mean of shares (n, R) and its interval at every ρ."""
    mean, both, _ = interval(shares, units)
    return {"rate": tidy(mean), "low": tidy(both[0]), "high": tidy(both[1])}


def gap(white: Array, k: Array, level: float) -> Json:
    """How t compares to tests that know σ, in the same white noise (n, d), where they differ most.

    ``projection`` is that of :func:`formula`; ``likelihood ratio`` the best of all tests for a ρ, by Neyman and
    Pearson: S = ⟨y, k⟩ − ρ ‖y‖² / 2 for N(0, 1) against ρ k + √(1 − ρ²) N(0, 1).
    """
    size = np.linalg.norm(k, axis=1)
    u, energy = white @ (k / size[:, None]).T, (white**2).sum(1)[:, None]
    power: dict[str, list[float]] = {"t": [], "projection": [], "likelihood ratio": []}
    for rho in RHO:
        a = np.sqrt(1 - rho**2)
        shown = rho * size + a * u
        norm = (rho * size) ** 2 + 2 * rho * a * size * u + a**2 * energy
        best = size * shown - rho * norm / 2 >= likelihood_ratio_limit(float(size[0]), k.shape[1], rho, level)
        found = (t_p(white, k, np.ones(1), rho) <= level, shown >= stats.norm.isf(level), best)
        for values, hits in zip(power.values(), found, strict=True):
            values.append(float(hits.mean()))
    known = np.array(power["projection"]) - formula(round(float(size[0] ** 2)), level)
    out: Json = {"projection against the formula": tidy(np.abs(known).max())}
    for name in ("projection", "likelihood ratio"):
        less = np.array(power[name]) - np.array(power["t"])
        worst = int(np.abs(less).argmax())
        out[name] = {
            "at rho": RHO[worst],
            "t": tidy(power["t"][worst]),
            "power": tidy(power[name][worst]),
            "t has less by at most": tidy(less.max()),
            "within 2 points": bool(less.max() <= 0.02),
        }
    return out


def likelihood_ratio_limit(size: float, dimensions: int, rho: float, level: float) -> float:
    """What S = ‖k‖ u − ρ (u² + X) / 2 exceeds with a probability, u ~ N(0, 1) and X ~ χ² of d − 1."""
    u = np.linspace(-9, 9, 4001)
    weight = stats.norm.pdf(u) * (u[1] - u[0])

    def excess(limit: float) -> float:
        below = 2 * (size * u - limit) / rho - u**2
        return float(weight @ stats.chi2.cdf(below, dimensions - 1)) - level

    centre = -rho * dimensions / 2
    return float(optimize.brentq(excess, centre - 9 * size, centre + 9 * size, xtol=1e-6 * size))


def usual_power(e: Array, scale: Array, keys: Array, others: Array, level: float) -> dict[str, Array]:
    """(n, R) share of keys (K, d) that recipes find in noise (n, d) times a scale (n,).

    Of others (K', d), which are not in it, they find the level.
    """
    null = [misfits(scale[:, None] * e, k) for k in others]
    limits = {name: float(np.quantile([each[name] for each in null], level)) for name in null[0]}
    found = {name: np.zeros((len(e), len(RHO))) for name in limits}
    for i, rho in enumerate(RHO):
        for k in keys:
            misfit = misfits(scale[:, None] * (rho * k + np.sqrt(1 - rho**2) * e), k)
            for name, limit in limits.items():
                found[name][:, i] += (misfit[name] <= limit) / len(keys)
    return found
