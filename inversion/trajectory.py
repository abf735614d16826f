"""The latents of a picture at every noise level, z_0 … z_T, from inversion or from sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inversion.chunks import in_chunks
from inversion.diffusion import checked, run, sampler
from inversion.fields import Field, Progress, silent
from inversion.model import LatentDiffusionModel, Prompt
from inversion.schedule import Level, Schedule


@dataclass(frozen=True)
class Trajectory:
    """Latents of pictures at every noise level of a schedule.

    Attributes:
        latents: (B, steps + 1, C, [F,] h, w) float32 on the CPU, the cleanest, z_0, first.
        schedule: whose levels they lie at.
    """

    latents: Tensor
    schedule: Schedule

    @property
    def levels(self) -> tuple[Level, ...]:
        """The level of every latent, the cleanest first."""
        return (self.schedule.steps[-1][1], *(t for t, _ in reversed(self.schedule.steps)))

    @property
    def noise(self) -> Tensor:
        """z_T of unit variance, (B, C, [F,] h, w), as :func:`inversion.sample` takes it."""
        return self.latents[:, -1] / self.schedule.start


@torch.no_grad()
def trajectory(
    model: LatentDiffusionModel,
    z_0: Tensor,
    *,
    method: str = "auto",
    steps: int = 10,
    prompt: Prompt = None,
    guidance: float = 1.0,
    evaluations: int | None = None,
    chunk_size: int = 8,
    progress: Progress | None = None,
) -> Trajectory:
    """The path that diffusion inversion takes from latents to their noise.

    Its end is what :func:`inversion.invert_diffusion` returns for the same arguments, NaN where a step went wrong.
    Of ``shooting``, which solves for the noise alone, it is the sampler's path from there. The networks hold
    ``chunk_size`` samples at a time, so that the device's memory grows with neither their number nor that of the
    steps; the path itself, 4 bytes a number, is on the CPU.

    Args:
        model: the latent diffusion model.
        z_0: (B, C, [F,] h, w) float32.
        method: as for :func:`inversion.invert_diffusion`.
        steps: number of steps.
        prompt: as there.
        guidance: as there.
        evaluations: as there.
        chunk_size: samples that go through the network together, ≥ 1; halved when memory runs out.
        progress: called after every step with the steps done and their number, chunk after chunk.

    Raises:
        ValueError: if a shape or an argument does not fit the model.
    """
    z_0 = model.check_latents(z_0)
    schedule = model.schedule(steps, z_0.shape)
    method = checked(method, evaluations, schedule)
    field = model.field(prompt, batch=len(z_0), guidance=guidance)

    def invert(rows: Tensor) -> list[Tensor]:
        path = [z_0[rows].cpu()]
        solution = run(
            model,
            lambda z, t, r: field(z, t, rows[r]),
            z_0[rows],
            schedule,
            method,
            evaluations,
            progress or silent,
            lambda z: path.append(z.cpu()),
        )
        if method == "shooting":
            return sampled_path(model, "auto", field, solution.value, rows, schedule, silent)
        return [*path[:-1], solution.value.cpu()]

    return Trajectory(in_parts(invert, z_0, chunk_size), schedule)


@torch.no_grad()
def sampled_trajectory(
    model: LatentDiffusionModel,
    z_T: Tensor,
    *,
    method: str = "auto",
    steps: int = 50,
    prompt: Prompt = None,
    guidance: float = 1.0,
    chunk_size: int = 8,
    progress: Progress | None = None,
) -> Trajectory:
    """The path that :func:`inversion.sample` takes from noise of unit variance: a generated picture's true one.

    Args:
        model: the latent diffusion model.
        z_T: (B, C, [F,] h, w) float32.
        method: as for :func:`inversion.sample`.
        steps: number of steps.
        prompt: as there.
        guidance: as there.
        chunk_size: as for :func:`trajectory`.
        progress: as there.

    Raises:
        ValueError: if a shape or an argument does not fit the model.
    """
    z_T = model.check_latents(z_T)
    schedule = model.schedule(steps, z_T.shape)
    z_T = schedule.start * z_T
    field = model.field(prompt, batch=len(z_T), guidance=guidance)

    def generate(rows: Tensor) -> list[Tensor]:
        return sampled_path(model, method, field, z_T[rows], rows, schedule, progress or silent)

    return Trajectory(in_parts(generate, z_T, chunk_size), schedule)


def sampled_path(
    model: LatentDiffusionModel,
    method: str,
    field: Field,
    z_T: Tensor,
    rows: Tensor,
    schedule: Schedule,
    progress: Progress,
) -> list[Tensor]:
    """The latents that a sampler passes from z at the first level, of the samples with these numbers; z_0 first."""
    path = [z_T.cpu()]
    sampler(model, method)(
        lambda z, t, r: field(z, t, rows[r]), z_T, schedule, progress, lambda z: path.insert(0, z.cpu())
    )
    return path


def in_parts(solve: Callable[[Tensor], list[Tensor]], z: Tensor, chunk_size: int) -> Tensor:
    """The paths (B, steps + 1, ...) that a function of row numbers finds, for a chunk of the rows of z at a time.

    Raises:
        ValueError: if chunk_size is below 1.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")

    rows = torch.arange(len(z), device=z.device)
    return torch.cat(list(in_chunks(lambda part: torch.stack(solve(part), 1), rows, chunk_size)))
