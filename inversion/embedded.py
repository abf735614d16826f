"""Where the embedded model and its prompts lie: inside the installed package, or in the checkout."""

from __future__ import annotations

from pathlib import Path


def data_folder() -> Path:
    """The data directory: inside the installed package, or that of the checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_data", here.parent / "data"):
        if (folder / "sapling" / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(f"the embedded model is neither in {here / '_data'} nor in {here.parent / 'data'}")


def sapling_folder() -> Path:
    """Where Sapling, the embedded model, lies; in diffusers layout."""
    return data_folder() / "sapling"
