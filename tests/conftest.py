"""Sapling and a few of its pictures, made once for the whole run."""

import os
import signal

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # tests run beside each other
# Ignored where a script runs in the background; programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from inversion import LatentDiffusionModel
from watermark import RingKey
from watermark.generate import generate

PROMPTS = [
    "a red apple on a blue background",
    "a yellow flower on a purple background",
    "an orange on a teal background",
    "a strawberry",
]


@pytest.fixture(scope="session")
def sapling():
    return LatentDiffusionModel.load("sapling")


@pytest.fixture(scope="session")
def alice():
    return RingKey(bytes(range(32)))


@pytest.fixture(scope="session")
def marked(sapling, alice):
    return [g.image for g in generate(sapling, PROMPTS, key=alice, seed=11, steps=25)]


@pytest.fixture(scope="session")
def unmarked(sapling):
    return [g.image for g in generate(sapling, PROMPTS, key=None, seed=11, steps=25)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, marked, unmarked):
    """The pictures as files: marked-0.png …, unmarked-0.png …"""
    path = tmp_path_factory.mktemp("pictures")
    for name, images in (("marked", marked), ("unmarked", unmarked)):
        for i, image in enumerate(images):
            image.save(path / f"{name}-{i}.png")
    return path


def pytest_collection_modifyitems(items):
    """What takes longest goes first, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.name not in {"test_readme.py", "test_demo.py", "test_verify.py"})
