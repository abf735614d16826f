"""Is T(z) = E(D(z)) − E(x) cocoercive where the solvers go? Figs. 2 and 4 of Hong et al. 2024, on Sapling.

    python -m benchmarks.cocoercivity             100 pictures, about an hour on two cores, resumes
    python -m benchmarks.cocoercivity --quick     2 pictures and few iterations, one minute

For every picture β = min_k ⟨T(z∞) − T(z_k), z∞ − z_k⟩ / ‖T(z∞) − T(z_k)‖², with z∞ the last iterate, against
‖z_k − z∞‖ at the last k compared, with a least-squares line: the paper's question whether the assumption fails
where convergence is slow. The paper has Pearson's correlation, which a few pictures of very small β decide; the
rank correlation beside it does not depend on these.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from scipy import stats

from benchmarks.kept import described, weights
from benchmarks.latents import Pictures, generated
from benchmarks.record import RESULTS, rate, resume, write
from inversion import Autoencoder, LatentDiffusionModel, Solution
from inversion.anderson import anderson
from inversion.decoder import decoder_residual
from inversion.diagnostics import Path as SolverPath
from inversion.diagnostics import cocoercivity
from inversion.solvers import Stop, adam, forward_step, inertial_km

CHUNK = 10
METHODS: dict[str, tuple[Callable[..., Solution], int, int]] = {
    "forward step, ρ = 0.001": (partial(forward_step, step_size=0.001), 300, 100),
    "inertial KM, α = 0.9, ρ = 0.001": (partial(inertial_km, inertia=0.9, step_size=0.001), 300, 100),
    "Adam": (adam, 300, 50),
    "forward step, ρ = 0.5": (partial(forward_step, step_size=0.5), 100, 50),
    "Anderson": (anderson, 50, 20),
}
"""Name → solver, iterations, up to which they are compared with the last; the first three as published."""


def measure(
    ae: Autoencoder, pictures: Pictures, name: str, quick: bool, found: dict[str, Any], save: Callable[[], object]
) -> None:
    """β and distance of every picture along the path of one solver, into ``found``, a few pictures at a time.

    What is there already, of the same solver, is not made again.
    """
    solver, steps, compare = METHODS[name]
    if quick:
        steps, compare = 6, 3
    what = f"{described(solver)}, {steps} iterations, 0 … {compare} compared with the last"
    if found.get("solver") != what:
        found.clear()
        found["solver"] = what
    columns = [found.setdefault(column, []) for column in ("beta", "distance", "smallest local ratio")]
    left = list(pictures.chunks(CHUNK))[len(columns[0]) // CHUNK :]
    for _, x in track(left, name, console=Console(stderr=True)):
        b, residual = decoder_residual(ae, x)
        path = SolverPath()
        solver(residual, b, Stop(steps), callback=path)
        along = cocoercivity(path, compare=compare)
        for column, own in zip(columns, (along.beta, along.distance, along.local[:compare].amin(0)), strict=True):
            column.extend(own.double().tolist())
        save()


def analyse(found: dict[str, Any]) -> dict[str, Any]:
    """What follows from β and the distances of one solver's paths."""
    betas, distances = np.array(found["beta"]), np.array(found["distance"])
    line, ranks = stats.linregress(betas, distances), stats.spearmanr(betas, distances)
    return {
        "positive": rate(int((betas > 0).sum()), len(betas)),
        "beta, median": float(np.median(betas)),
        "line": {"slope": line.slope, "intercept": line.intercept, "r": line.rvalue, "p": line.pvalue},
        "ranks": {"r": float(ranks.statistic), "p": float(ranks.pvalue)},
    }


def readme_table(result: dict[str, Any]) -> str:
    """One row a solver, in Markdown."""
    lines = [
        "| along the path of | β > 0 | median β | β and distance from the end: r (p) | by ranks (p) |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["methods"].items():
        positive = found["positive"]
        columns = [f"{found[of]['r']:+.2f} ({found[of]['p']:.1g})" for of in ("line", "ranks")]
        lines.append(
            f"| {name} | {positive['hits']} of {positive['trials']} | {found['beta, median']:.2f} "
            f"| {' | '.join(columns)} |"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel a method: every picture a point, and the fitted line."""
    methods = result["methods"]
    figure = Figure(figsize=(3.6 * len(methods), 3.6), dpi=120, layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(methods), squeeze=False)[0], methods.items(), strict=True
    ):
        beta, distance = np.array(found["beta"]), np.array(found["distance"])
        axes.scatter(beta, distance, s=12, color="#0969da", alpha=0.6)
        ends = np.array([beta.min(), beta.max()])
        axes.plot(ends, found["line"]["intercept"] + found["line"]["slope"] * ends, color="#cf222e")
        axes.axvline(0, color="0.6", lw=1)
        title = f"{name}\nr = {found['line']['r']:.2f}, by ranks {found['ranks']['r']:.2f}"
        axes.set(title=title, xlabel="β along the path", ylabel="‖z_k − z∞‖")
    figure.savefig(path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="2 pictures and few iterations, to see that it runs.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure the cocoercivity of E∘D along the paths of the solvers."""
    settings: dict[str, Any] = {
        "pictures": 2 if quick else 100,
        "seed": 2,
        "quick": quick,
        "weights": weights("sapling"),
    }
    result = {"methods": {}} | resume("cocoercivity", settings, output)
    ae = LatentDiffusionModel.load("sapling", dtype="fp32").autoencoder
    pictures = generated(settings["pictures"], seed=settings["seed"], steps=25)
    for name in METHODS:
        found = result["methods"].setdefault(name, {})
        measure(ae, pictures, name, quick, found, partial(write, "cocoercivity", result, output))
        found |= analyse(found)
    path = write("cocoercivity", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
