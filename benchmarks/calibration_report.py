"""What :mod:`benchmarks.calibration` measured, as a figure and as the tables of the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Json = dict[str, Any]
COLOURS = {
    "unmarked": "#0969da",
    "another key": "#cf222e",
    "photographs": "#bf8700",
    "synthetic": "#8250df",
    "white noise": "0.45",
}
SHOWN = {
    "dense | as it is | alone": "`dense` (default)",
    "dense | whitened | alone": "`dense`, whitened",
    "dense | whitened | searched": "`dense`, whitened, default search",
    "rings | as it is | alone": "`rings`",
    "rings | whitened | alone": "`rings`, whitened",
    "rings | whitened | searched": "`rings`, whitened, default search",
    "levels | whitened | alone": "`levels`, whitened",
    "zeros | as it is | alone": "`zeros`",
    "zeros | counted | alone": "`zeros`, counted on null images",
    "tree-ring | as it is | alone": "tree-ring's rings, our t",
    "tree-ring | counted | searched": "the same, counted, default search",
    "constant rings | as it is | alone": "constant rings, our t",
    "constant rings | counted | searched": "the same, counted, default search",
    "rings | t on bins | alone": "`rings`, usual t on bins",
    "tree-ring | chi-square | alone": "tree-ring's rings, its χ²",
    "dense | chi-square | alone": "`dense`, the same χ²",
    "tree-ring | L1, set on unmarked | alone": "tree-ring's rings, L1 set on unmarked",
    "constant rings | L1, set on unmarked | alone": "constant rings, L1 set on unmarked",
    "dense | L1, set on unmarked | alone": "`dense`, L1 set on unmarked",
}
"""Tests of the table and the figure."""

BAR = "0.001"
AT_RHO = (0.06, 0.1, 0.14, 0.18, 0.25)


def draw(result: Json, path: Path) -> None:
    """Quantiles of p by family, false positive rates at nominal 1e-3, and power."""
    figure = Figure(figsize=(14, 11), dpi=110, layout="constrained")
    ((left, right), (rates, power)) = figure.subplots(2, 2)
    draw_quantiles(left, result, (("dense | whitened | alone", "-"), ("rings | whitened | alone", ":")))
    left.set_title("p of one key, whitened: dense (solid), rings (dotted)")
    draw_quantiles(right, result, (("tree-ring | chi-square | alone", "-"), ("dense | chi-square | alone", ":")))
    right.set_title("χ² of Wen et al.: tree-ring's rings (solid), dense (dotted)")
    draw_rates(rates, result)
    draw_power(power, result["power"])
    figure.savefig(path)


def draw_quantiles(axes: Axes, result: Json, lines: tuple[tuple[str, str], ...]) -> None:
    """Quantiles of p against what they should be; below the diagonal p is too small."""
    probabilities = np.array(result["quantiles"]["probabilities"])
    axes.loglog(probabilities, probabilities, color="0.6", lw=5, alpha=0.35, label="exact", zorder=0)
    for name, style in lines:
        plain = name.replace("whitened", "as it is")
        for family, colour in COLOURS.items():
            by_family = result["quantiles"]["p"][plain if family == "white noise" else name]
            if family in by_family:
                p = by_family[family]
                label = family if style == "-" else None
                axes.loglog(probabilities[-len(p) :], np.maximum(p, 1e-12), style, color=colour, label=label)
    axes.set(xlabel="probability", ylabel="quantile of p", xlim=(1e-5, 1), ylim=(1e-10, 1))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def draw_rates(axes: Axes, result: Json) -> None:
    """False positive rates, averaged over keys, at nominal 1e-3."""
    names = [name for name in SHOWN if name in result["false positives"]]
    least = 1e-5
    for shift, (family, colour) in zip(np.linspace(-0.3, 0.3, len(COLOURS)), COLOURS.items(), strict=True):
        for row, name in enumerate(names):
            cell = rate_of(result, name, family)
            if cell is None:
                continue
            low, high = cell["ci95"]
            axes.plot([max(low, least), max(high, least)], [row + shift] * 2, color=colour, lw=1.2)
            axes.plot(max(cell["rate"], least), row + shift, "o", ms=3.5, color=colour)
    axes.axvline(1e-3, color="0.4", lw=1)
    axes.set_yticks(range(len(names)), [SHOWN[name].replace("`", "") for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlim=(least, 1.3), xlabel="false positive rate at nominal 1e-3, with 95 % interval")
    axes.set_title("Averaged over keys; images, or photographs, resampled")
    axes.grid(alpha=0.3, axis="x")


def draw_power(axes: Axes, power: Json) -> None:
    """Found against ρ: t in images and in white noise, the formula, and the usual recipes at the same rate."""
    rho, curves = power["rho"], power["curves"]
    for level, style in (("0.001", "-"), ("1e-06", "--")):
        axes.plot(
            rho, power["formula"][level], style, color="0.6", lw=5, alpha=0.4, label=f"formula, level {level}"
        )
        for family, colour in COLOURS.items():
            how = "as it is" if family == "white noise" else "whitened"
            cell = curves[f"dense | {how} | {family} | {level}"]
            label = f"t, {family}" if style == "-" else None
            axes.plot(rho, cell["rate"], style, color=colour, lw=1.3, label=label)
    for name, marker in (("L2", "v"), ("chi-square", "s"), ("L1", "x")):
        cell = curves[f"{name} | as it is | unmarked | 0.001"]
        axes.plot(rho, cell["rate"], marker=marker, ms=4, color="#1a7f37", lw=0.8, label=f"{name}, unmarked, 0.001")
    axes.set(xlabel="ρ", ylabel="found", xlim=(0, 0.45), ylim=(-0.02, 1.02), title="Power of a dense key")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)


def rate_of(result: Json, name: str, family: str, level: str = BAR) -> Json | None:
    """A rate averaged over keys; None where a test has none."""
    cell: Json | None = (
        result["false positives"].get(name, {}).get(family, {}).get("averaged over keys", {}).get(level)
    )
    return cell


def readme_table(result: Json) -> str:
    """Rates of all tests, of the default one at all levels, power, and marked pictures, in Markdown."""
    tables = (rates_table, bar_table, levels_table, power_table, marked_table)
    return "\n\n".join(table(result) for table in tables)


def rates_table(result: Json) -> str:
    """False positives in a thousand at nominal 1e-3, averaged over keys, and how many keys are above it.

    The last column, with intervals at one-sided 95 %, leaves photographs out, whose crops are not independent.
    """
    families = list(COLOURS)
    lines = [
        f"| false positives in 1,000 at p ≤ 1e-3 | {' | '.join(families)} | key × family above; expected |",
        "|---|" + "---|" * (len(families) + 1),
    ]
    for name, title in SHOWN.items():
        if name not in result["bar"]:
            continue
        cells = [in_a_thousand(rate_of(result, name, family)) for family in families]
        found = result["bar"][name]
        above = f"{found['keys above']}; {found['keys above, if nominal']:.1f}"
        sure = " (sure of one)" if found["a key above, all taken into account"] else ""
        lines.append(f"| {title} | {' | '.join(cells)} | {above}{sure} |")
    return "\n".join(lines)


def bar_table(result: Json) -> str:
    """Whether a rate above 1e-3 is established at nominal 1e-3, and what the images support at most."""
    lines = [
        "| p ≤ 1e-3, one-sided at 95 % | above 1e-3 | at most, averaged over keys | at most, the worst key |",
        "|---|---|---|---|",
    ]
    for name, title in SHOWN.items():
        if name not in result["bar"]:
            continue
        row = result["bar"][name]
        above = (
            ", ".join(f"{f}{'' if f in row['surely above'] else ' (by chance?)'}" for f in row["above"]) or "none"
        )
        averaged, worst = (max(row[what].items(), key=lambda pair: pair[1]) for what in ("bound", "worst key"))
        lines.append(f"| {title} | {above} | {averaged[1]:.1e} ({averaged[0]}) | {worst[1]:.1e} ({worst[0]}) |")
    return "\n".join(lines)


def levels_table(result: Json) -> str:
    """The default test at every level, the worst of its keys, and t on white noise."""
    name = "dense | whitened | alone"
    levels = list(result["white"]["dense"]["found"])
    lines = [
        f"| `dense`, whitened | {' | '.join(f'p ≤ {float(a):.0e}' for a in levels)} "
        f"| worst of {result['settings']['keys']:,} keys at 1e-3 |",
        "|---|" + "---|" * (len(levels) + 1),
    ]
    for family in list(COLOURS)[:-1]:
        cells = [written(rate_of(result, name, family, level)) for level in levels]
        worst = result["false positives"][name][family]["per key"][BAR]["worst"]
        cells.append(f"{worst['hits']} of {worst['trials']:,} (≤ {worst['ci95'][1]:.1e})")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    for kind, white in result["white"].items():
        cells = [written(white["found"][level]) for level in levels]
        lines.append(f"| white noise, `{kind}`, d = {white['dimensions']} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def power_table(result: Json) -> str:
    """Share found at 1e-3 at some ρ, with dense keys, and the largest distance from the test with σ known."""
    power = result["power"]
    at = [power["rho"].index(rho) for rho in AT_RHO]
    rows = {"white noise, formula": power["formula"][BAR]}
    for family in ("white noise", "unmarked", "another key", "photographs", "synthetic"):
        for name, title in (("dense", "t"), ("L2", "L2"), ("chi-square", "χ²"), ("L1", "L1")):
            how = "whitened" if name == "dense" and family != "white noise" else "as it is"
            rows[f"{family}, {title}"] = power["curves"][f"{name} | {how} | {family} | {BAR}"]["rate"]
    lines = [
        f"| found at 1e-3 | {' | '.join(f'ρ = {rho:g}' for rho in AT_RHO)} |",
        "|---|" + "---|" * len(AT_RHO),
        *(f"| {title} | {' | '.join(f'{values[i]:.3f}' for i in at)} |" for title, values in rows.items()),
        "",
        "| white noise | test that knows σ | at ρ | its power | t | t has less by at most |",
        "|---|---|---|---|---|---|",
    ]
    for name, gap in power["gap"].items():
        kind, level = name.split(" | ")
        for known in ("projection", "likelihood ratio"):
            row = gap[known]
            lines.append(
                f"| `{kind}`, {float(level):.0e} | {known} | {row['at rho']:g} | {row['power']:.3f} "
                f"| {row['t']:.3f} | {row['t has less by at most']:.3f} |"
            )
    return "\n".join(lines)


def marked_table(result: Json) -> str:
    """Pictures of either pattern, clean and compressed, by the encoder alone and by decoder inversion.

    The last column pairs both on the pictures that the encoder was tried on.
    """
    names = {
        "encoder alone": "encoder only",
        "clean": "decoder inversion, shrunk (default)",
        "all the way": "decoder inversion, all the way",
        "JPEG 75, encoder alone": "JPEG 75, encoder only",
        "JPEG 75": "JPEG 75, decoder inversion, shrunk (default)",
        "JPEG 75, all the way": "JPEG 75, decoder inversion, all the way",
    }
    lines = [
        "| pictures with a key of their own | found at p ≤ 1e-6, default search | 95 % interval "
        "| as they are: median p | mean ρ | p smaller than by the encoder, median gain |",
        "|---|---|---|---|---|---|",
    ]
    for kind, ways in result["marked"].items():
        for way, title in names.items():
            row = ways[way]
            found = row["searched"]["1e-06"]
            low, high = found["ci95"]
            lines.append(
                f"| `{kind}`, {title} | {found['hits']} of {found['trials']} | {low:.3f} … {high:.3f} "
                f"| {row['p median']:.0e} | {row['rho mean']:.2f} "
                f"| {gained(ways.get(f'{way}, against encoder'))} |"
            )
    return "\n".join(lines)


def gained(pairs: Json | None) -> str:
    """How often decoder inversion has the smaller p, and by how much in the median; None for the encoder itself."""
    if pairs is None:
        return "–"
    smaller = pairs["smaller p"]
    return f"{smaller['hits']} of {smaller['trials']}, {pairs['median decades gained']:+.1f} decades"


def written(cell: Json | None) -> str:
    """A rate with its interval."""
    if cell is None:
        return "–"
    low, high = cell["ci95"]
    return f"{cell['rate']:.1e} ({low:.1e} … {high:.1e})"


def in_a_thousand(cell: Json | None) -> str:
    """A rate with its interval, times 1,000."""
    if cell is None:
        return "–"
    low, high = cell["ci95"]
    return f"{1e3 * cell['rate']:.2g} ({1e3 * low:.2g} … {1e3 * high:.2g})"
