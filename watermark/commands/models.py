"""Loading a model for a command, quietly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watermark.commands.errors import understood

if TYPE_CHECKING:
    from inversion import LatentDiffusionModel


def quiet_loaders() -> None:
    """Turn off the progress bars and warnings of diffusers and transformers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def load_model(
    model: str, dtype: str, device: str, variant: str | None, revision: str | None
) -> LatentDiffusionModel:
    """Load a model, quietly."""
    from inversion import LatentDiffusionModel

    quiet_loaders()
    with understood():
        return LatentDiffusionModel.load(model, dtype=dtype, device=device, variant=variant, revision=revision)
