"""Inversion of latent diffusion models: pixels → latent → initial noise. Knows nothing of watermarks."""

from inversion.autoencoder import Autoencoder
from inversion.decoder import invert_decoder
from inversion.diffusion import invert_diffusion, sample
from inversion.model import LatentDiffusionModel
from inversion.solvers import Solution

__all__ = ["Autoencoder", "LatentDiffusionModel", "Solution", "invert_decoder", "invert_diffusion", "sample"]
