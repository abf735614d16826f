"""A training that may be killed at any time: networks, their optimiser and their average, and a log of losses.

All random numbers of a step come from the seed and the number of the step, so that a run that was interrupted goes
on as if it had not been.
"""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from data.sapling.recipe.dataset import replace
from data.sapling.recipe.optimiser import MuonAndAdamW

WARM_UP, COOL_DOWN, FLOOR = 100, 0.25, 0.01
"""The rate rises for so many steps and falls during the last share of the budget, to this share of itself. It is
constant between, so that a budget can be raised later (Hägele et al. 2024, https://arxiv.org/abs/2405.18392)."""


class Positive(click.FloatRange):
    """A number above 0 that is finite."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


MINUTES = RATE = Positive()
"""The types of budgets and learning rates on command lines."""

CLIP = 1.0
"""Largest norm of the gradient."""

KEYS = {
    *("settings", "step", "seconds", "terms", "logged", "looked"),
    *("networks", "averaged", "optimiser", "average"),
}
"""What a checkpoint has."""


@dataclass(frozen=True)
class Budget:
    """How long a training takes in all, with what earlier runs took: minutes, or steps if they are given."""

    minutes: float
    steps: int | None = None

    def share(self, step: int, seconds: float) -> float:
        """How much of it is spent, from 0 to 1."""
        spent = seconds / 60 / self.minutes if self.steps is None else step / self.steps
        return min(1.0, spent)


def rate_factor(step: int, share: float) -> float:
    """The learning rate of a step, as a share of the largest."""
    return min((step + 1) / WARM_UP, max(FLOOR, min(1.0, (1 - share) / COOL_DOWN)))


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step."""

    seed: int
    step: int

    def numbers(self) -> np.random.Generator:
        """For numpy."""
        return np.random.default_rng((self.seed, self.step))

    def noise(self) -> torch.Generator:
        """For torch."""
        return torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, self.step)).generate_state(1)[0])
        )


class Training:
    """Networks that are trained, with everything that a resumed run needs, in one file.

    Args:
        file: the checkpoint; losses go to a ``.jsonl`` file beside it.
        networks: name → network. Parameters that require no gradient are left alone.
        rate: largest learning rate.
        decay: of the exponential moving average of the weights, once it has warmed up.
        settings: what a checkpoint must share with a run that resumes it, beside the rate.
        resume: go on with the checkpoint if there is one.

    Raises:
        click.ClickException: if there is a checkpoint and ``resume`` is false, or it has other settings.
    """

    def __init__(
        self,
        file: Path,
        networks: Mapping[str, nn.Module],
        *,
        rate: float,
        decay: float,
        settings: Mapping[str, Any],
        resume: bool,
    ) -> None:
        self.file, self.networks, self.rate = file, dict(networks), rate
        self.settings = dict(settings) | {"rate": rate}
        self.parameters = [p for n in self.networks.values() for p in n.parameters() if p.requires_grad]
        self.optimiser = MuonAndAdamW(self.networks, rate)
        self.average = EMAModel(self.parameters, decay=decay, foreach=True)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.terms: list[dict[str, float]] = []
        self.logged = self.looked = 0.0
        if file.exists():
            if not resume:
                raise click.ClickException(
                    f"{file} is there: --resume goes on with it, another --folder begins anew"
                )
            self._load()
        file.parent.mkdir(parents=True, exist_ok=True)

    def _load(self) -> None:
        saved = read(self.file)
        names = self.settings.keys() | saved["settings"].keys()
        other = {n: (saved["settings"].get(n), self.settings.get(n)) for n in sorted(names)}
        told = [f"{name} {before!r}, not {now!r}" for name, (before, now) in other.items() if before != now]
        if told:
            raise click.ClickException(f"{self.file} was made with {'; '.join(told)}")
        for name, network in self.networks.items():
            network.load_state_dict(saved["networks"][name])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.average.load_state_dict(saved["average"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.terms, self.logged, self.looked = saved["terms"], saved["logged"], saved["looked"]
        log = self.file.with_suffix(".jsonl")
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        try:
            self.log = [entry for entry in map(json.loads, lines) if entry["step"] <= self.step]
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{log} is no log of this recipe ({error}): remove it") from error

    def save(self) -> None:
        """Write the checkpoint and the log; the one before is there until the new one is complete."""
        with self.averaged():
            averaged = {
                name: {k: v.clone() for k, v in network.state_dict().items()}
                for name, network in self.networks.items()
            }
        replace(self.file.with_suffix(".jsonl"), "".join(json.dumps(entry) + "\n" for entry in self.log))
        part = self.file.with_suffix(".part")
        torch.save(
            {
                "settings": self.settings,
                "step": self.step,
                "seconds": self.seconds,
                "terms": self.terms,
                "logged": self.logged,
                "looked": self.looked,
                "networks": {name: network.state_dict() for name, network in self.networks.items()},
                "averaged": averaged,
                "optimiser": self.optimiser.state_dict(),
                "average": self.average.state_dict(),
            },
            part,
        )
        part.replace(self.file)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the networks have their average weights, and are in evaluation mode."""
        self.average.store(self.parameters)
        self.average.copy_to(self.parameters)
        for network in self.networks.values():
            network.eval()
        try:
            yield
        finally:
            self.average.restore(self.parameters)
            for network in self.networks.values():
                network.train()

    def run(
        self,
        losses_of: Callable[[int], dict[str, Tensor]],
        budget: Budget,
        *,
        batch: int,
        every: int = 50,
        save_minutes: float = 5.0,
        look: Callable[[], dict[str, Any]] | None = None,
        look_minutes: float = 30.0,
    ) -> None:
        """Train until the budget is spent.

        Args:
            losses_of: number of the step → scalar terms; the sum of all is minimised.
            budget: of this run and all before it.
            batch: pictures in a step, for the log.
            every: so many steps a line of the log, with their mean.
            save_minutes: of training between checkpoints.
            look: what else to measure now and then and at the end, with the average weights. Neither that nor
                writing checkpoints counts as training.
            look_minutes: of training between looks.
        """
        saved, first = self.seconds, self.step
        while self.seconds == 0 or budget.share(self.step, self.seconds) < 1:
            factor = rate_factor(self.step, budget.share(self.step, self.seconds))
            start = time.monotonic()
            self.terms.append(self._descend(losses_of(self.step), self.rate * factor))
            self.seconds += time.monotonic() - start
            if self.step % every == 0:
                means = {name: sum(t[name] for t in self.terms) / len(self.terms) for name in self.terms[0]}
                speed = len(self.terms) * batch / max(1e-9, self.seconds - self.logged)
                self._note(losses=means, factor=factor, pictures_a_second=round(speed, 2))
                self.terms, self.logged = [], self.seconds
            if look is not None and self.seconds - self.looked > 60 * look_minutes:
                self._note(seen=self._look(look))
                self.looked = self.seconds
            if self.seconds - saved > 60 * save_minutes:
                self.save()
                saved = self.seconds
        if self.step > first:
            if look is not None:
                self._note(seen=self._look(look))
            self.save()
        click.echo(f"{self.step} steps, {self.seconds / 60:.1f} minutes in all: {self.file}", err=True)

    def _look(self, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self.averaged(), torch.no_grad():
            return look()

    def _descend(self, terms: dict[str, Tensor], rate: float) -> dict[str, float]:
        """One step; the terms of its loss as numbers."""
        loss = torch.stack(list(terms.values())).sum()
        if not math.isfinite(loss.item()):
            raise click.ClickException(f"the loss of step {self.step} is {loss.item()}; {self.file} is as before")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimiser.step(rate)
        self.average.step(self.parameters)
        self.step += 1
        return {name: value.item() for name, value in terms.items()}

    def _note(self, **entry: Any) -> None:  # noqa: ANN401
        """Into the log and onto the screen."""
        self.log.append({"step": self.step, "seconds": round(self.seconds, 1)} | entry)
        click.echo(json.dumps(self.log[-1]), err=True)


def read(file: Path) -> dict[str, Any]:
    """A checkpoint.

    Raises:
        click.ClickException: if it cannot be read.
    """
    try:
        saved: dict[str, Any] = torch.load(file, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise click.ClickException(f"{file} is no checkpoint: {reason}") from error
    missing = sorted(KEYS - saved.keys()) if isinstance(saved, dict) else sorted(KEYS)
    if missing:
        raise click.ClickException(
            f"{file} is no checkpoint of this recipe, or of an older version of it: it has no {', '.join(missing)}"
        )
    return saved
