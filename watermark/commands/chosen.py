"""The keys and the calibration that the commands that test images were asked to use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.errors import Trouble, understood
from watermark.commands.stores import key_store, warn_of_revoked

if TYPE_CHECKING:
    from inversion import LatentDiffusionModel
    from watermark.keys import RingKey
    from watermark.verify import Verifier


def chosen_keys(
    store: Path,
    names: tuple[str, ...],
    all_keys: bool,
    model: str,
    *,
    any_model: bool = False,
    optional: bool = False,
) -> dict[str, RingKey]:
    """The keys that were asked for, by name; each of them once. If they are optional there may be none.

    A key that is meant for another model is refused, and of all keys left out, unless any model will do.
    """
    if optional and not names and not all_keys:
        return {}
    if all_keys == bool(names):
        raise click.UsageError("give either --key NAME, once or more, or --all-keys")
    with understood():
        keys = key_store(store)
        entries = keys.list() if all_keys else [keys.entry(name) for name in dict.fromkeys(names)]
        if not entries:
            raise Trouble(f"no keys in {store}; make one: treering key create NAME")
        for entry in entries:
            if entry.model not in ("", model) and not any_model:
                problem = f"the key {entry.name!r} is meant for the model {entry.model!r}, not {model!r}"
                if not all_keys:
                    raise Trouble(f"{problem}: give that --model, or --any-model if this is a copy of it")
                click.echo(f"treering: warning: {problem}, and left out", err=True)
        wanted = [entry for entry in entries if any_model or entry.model in ("", model)]
        warn_of_revoked(wanted)
        return keys.get_all(entry.name for entry in wanted)


def fits(name: str, key: Any, model: LatentDiffusionModel) -> bool:  # noqa: ANN401 - ours or of other code
    """Whether a key can be looked for with a model; says so on stderr if not."""
    from watermark.verify import why_unfit

    problem = why_unfit(key, model.latent_shape)
    if problem is not None:
        click.echo(
            f"treering: warning: the key {name!r} is left out, it does not fit the model: {problem}", err=True
        )
    return problem is None


def calibrated(verifier: Verifier, given: Path | None) -> Verifier:
    """A verifier with the calibration that was given, else its model's; says on stderr if its model's does not fit.

    Raises:
        CalibrationError: if the one that was given does not fit or cannot be read.
    """
    from watermark.calibration import Calibration
    from watermark.verify import calibration_file, with_calibration

    if given is not None:
        return replace(verifier, calibration=Calibration.load(given))
    found = with_calibration(verifier)
    if found.calibration is None and calibration_file(verifier.model).is_file():
        click.echo("treering: warning: the model's calibration is for other settings and not used", err=True)
    return found
