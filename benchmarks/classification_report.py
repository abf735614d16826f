"""The figure and the tables of :mod:`benchmarks.classification`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TITLES = {
    "encoder": "encoder only",
    "anderson": "Anderson",
    "ours": "Anderson, shrunk (default of verification)",
    "gradient-free": "Adam on T (published)",
    "gradient": "gradient descent (published)",
    "true latent": "true latent",
}
COLOURS = dict(zip(TITLES, ("#6e7781", "#8ec99b", "#1a7f37", "#bf8700", "#cf222e", "#0969da"), strict=True))
RULES = {"angle": "our statistic", "L1": "L1 distance", "L1, Hermitian part": "L1 to the Hermitian part"}


def draw(result: dict[str, Any], path: Path) -> None:
    """Confusion matrices of the published keys in both channels, and the share that is classified of all sets."""
    cells = result["cells"]
    shown = [name for name in cells if "radius 6" in name and "| known |" in name and not name.endswith("| L1")]
    figure = Figure(figsize=(22, 2.6 * len(shown)), dpi=110, layout="constrained")
    places = figure.add_gridspec(2 * len(shown), len(TITLES) + 1, width_ratios=(*[1] * len(TITLES), 5))
    for i, name in enumerate(shown):
        keys, _, rule = name.split(" | ")
        for j, (method, title) in enumerate(TITLES.items()):
            if method not in cells[name]:
                continue
            axes = figure.add_subplot(places[2 * i : 2 * i + 2, j])
            matrix(axes, np.array(cells[name][method]["confusion"]))
            axes.set_title(title.replace(" (", "\n("), fontsize=8)
            if not j:
                axes.set_ylabel(
                    f"{keys.replace(', channel', chr(10) + 'channel')}\n{RULES[rule]}\n\ntrue key", fontsize=8
                )
    half = 2 * len(shown) * 5 // 8
    shares(figure.add_subplot(places[:half, -1]), cells)
    lines(figure.add_subplot(places[half:, -1]), result)
    figure.savefig(path)


def shares(axes: Axes, cells: dict[str, Any]) -> None:
    """How many pictures each method classifies."""
    names = list(cells)[::-1]
    for i, name in enumerate(names):
        for j, (method, title) in enumerate(TITLES.items()):
            if method not in cells[name]:
                continue
            rate = cells[name][method]["classified"]
            y = i + 0.36 - 0.14 * j
            axes.plot(rate["ci95"], [y, y], color=COLOURS[method], lw=1.2)
            axes.plot(rate["rate"], y, "o", ms=3, color=COLOURS[method], label=None if i else title)
    axes.set_yticks(range(len(names)), [words(name) for name in names], fontsize=7)
    axes.set(title="Classified, with 95 % intervals", xlim=(0, 1.02), ylim=(-0.6, len(names) - 0.4))
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.4, -0.05))


def lines(axes: Axes, result: dict[str, Any]) -> None:
    """How well every method recovers noise, by radius, in the channels of the published keys."""
    channels = sorted(
        {int(name.split(" | ")[0].rsplit("channel ", 1)[1]) for name in result["cells"] if "channel" in name}
    )
    for method in TITLES:
        for channel, style in zip(channels, ("--", "-"), strict=False):
            values = result["recovery"][f"{method} | known"][channel]
            axes.plot(range(1, len(values) + 1), values, style, color=COLOURS[method], lw=1.3)
    named = ", ".join(f"channel {c} {style}" for c, style in zip(channels, ("dashed", "solid"), strict=False))
    axes.set(title="Recovered noise, prompt known", xlabel=f"cycles across the picture\n{named}", ylim=(0, 1))
    axes.set_ylabel("correlation with the true one")
    axes.grid(alpha=0.3)


def matrix(axes: Axes, counts: np.ndarray) -> None:
    """A confusion matrix; colours are shares of its rows."""
    names = [*map(str, range(1, len(counts))), "none"]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "w" if shares[i, j] > 0.6 else "k"
        axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)


def words(name: str) -> str:
    """The name of a cell, in words."""
    keys, prompt, rule = name.split(" | ")
    return f"{keys}, {RULES[rule]}, prompt {prompt}"


def against(cell: dict[str, Any], other: str) -> str:
    """What the comparison with another method says, in words; p by Holm but of the one that matters."""
    test = cell[f"against {other}"]
    p = test.get("p, Holm", test["p"])
    text = f"p = {p:.1g}" if p >= 1e-3 else f"p = {p:.0e}"
    return f"+{test['gained']} −{test['lost']}, " + (f"**{text}**" if test.get("primary") else text)


def share_text(rate: dict[str, Any]) -> str:
    """A count with its interval."""
    low, high = rate["ci95"]
    return f"{rate['hits']} of {rate['trials']} ({low:.2f} … {high:.2f})"


def readme_table(result: dict[str, Any]) -> str:
    """Classified by method, methods against each other, the class "none", and what methods cost, in Markdown."""
    methods, cells = list(TITLES), result["cells"]
    lines = [
        "| classified: keys, rule, prompt | " + " | ".join(TITLES[m] for m in methods) + " | exact noise |",
        "|---|" + "---|" * (len(methods) + 1),
    ]
    for name, each in cells.items():
        keys, _, rule = name.split(" | ")
        known = result["exact noise"][f"{keys} | {rule}"]["classified"]
        lines.append(
            f"| {words(name)} | {' | '.join([*(told(each, m, classified) for m in methods), share_text(known)])} |"
        )
    titles = {"encoder": "more and less than the encoder", "ours": "more and less than the default"}
    for other, title in titles.items():
        rest = [m for m in methods if m not in (other, "true latent")]
        lines += ["", f"| {title} | {' | '.join(TITLES[m] for m in rest)} |", "|---|" + "---|" * len(rest)]
        for name, each in cells.items():
            pairs = [told(each, m, partial(against, other=other)) for m in rest]
            lines.append(f"| {words(name)} | {' | '.join(pairs)} |")
    lines += [
        "",
        "| with a class none: right / none / another key; unmarked, given a key | "
        + " | ".join(TITLES[m] for m in methods)
        + " |",
        "|---|" + "---|" * len(methods),
    ]
    for name, each in cells.items():
        lines.append(f"| {words(name)} | {' | '.join(told(each, m, with_none) for m in methods)} |")
    cost, memory = result["cost"], result["memory"]
    lines += [
        "",
        "| decoder inversion of a picture | evaluations | seconds | of the gradient's | peak memory, MB "
        "| of one decode |",
        "|---|---|---|---|---|---|",
    ]
    for name, share in cost["of the gradient's"].items():
        evaluations, seconds, peak = cost["evaluations"].get(name, 0), cost["seconds"][name], memory[name]
        lines.append(
            f"| {TITLES[name]} | {evaluations:.0f} | {seconds:.2f} | {share:.3f} "
            f"| {peak['bytes'] / 1e6:.0f} | {peak['of one decode']:.2f} |"
        )
    return "\n".join(lines)


def told(each: dict[str, Any], method: str, text: Callable[[dict[str, Any]], str]) -> str:
    """What is to be said of a method, nothing if it was not tried on the pictures of a set."""
    return text(each[method]) if method in each else ""


def classified(cell: dict[str, Any]) -> str:
    """How many pictures are classified."""
    return share_text(cell["classified"])


def with_none(cell: dict[str, Any]) -> str:
    """What becomes of marked pictures, and how many unmarked ones are given a key."""
    false = cell["unmarked named"]
    named = "–" if false is None else f"{false['hits']} of {false['trials']}"
    return f"{cell['named']['hits']} / {cell['none']} / {cell['another']}; {named}"
