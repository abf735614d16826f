import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the tracked files, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source],
        check=True,
    )
    return next(out.glob("treering-*.whl"))


def test_wheel_holds_the_packages_and_the_model_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"watermark", "inversion"}
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        assert f"inversion/_data/sapling/{part}.safetensors" in names
    assert "inversion/_data/prompts/demo.txt" in names
    assert "inversion/_data/sapling/README.md" in names
    assert not [name for name in names if "recipe" in name]
    assert wheel.stat().st_size < 40e6


def test_installed_wheel_verifies_outside_the_checkout(wheel, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel],
        check=True,
    )
    (tmp_path / "empty").mkdir()
    script = """
import sys, watermark.cli, inversion.embedded as embedded
assert watermark.cli.__file__.startswith(sys.argv[1]), watermark.cli.__file__
assert str(embedded.sapling_folder()).startswith(sys.argv[1]), embedded.sapling_folder()
run = watermark.cli.main
assert run(["key", "create", "me"]) == 0
assert run(["embed", "a strawberry", "--key", "me", "--seed", "1", "--steps", "25"]) == 0
sys.exit(run(["verify", "a-strawberry-1.png", "--key", "me", "--fpr", "1e-3"]))
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "TREERING_STORE": str(tmp_path / "keys.db")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "site")],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "watermarked" in done.stdout
