"""The recipe of Sapling: its pieces on pictures made here, and all of it on Debian's (slow)."""

import gzip
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from torch import nn

from benchmarks.kept import weights
from data.sapling.recipe import (
    card,
    dataset,
    evaluate,
    grid,
    neighbours,
    networks,
    prepare,
    sources,
    speed,
    train_autoencoder,
    train_diffusion,
    training,
)
from data.sapling.recipe.__main__ import main
from data.sapling.recipe.composites import colour_name, on_background
from data.sapling.recipe.export import export
from data.sapling.recipe.latents import encoded
from data.sapling.recipe.optimiser import MuonAndAdamW
from data.sapling.recipe.pictures import object_name
from data.sapling.recipe.spectrum import extremes, lanczos
from data.sapling.recipe.training import Budget, rate_factor, read
from inversion import LatentDiffusionModel, sample
from inversion.embedded import sapling_folder
from tests.problems import tiny_pipeline
from watermark import RingKey, Verifier, watermarked_noise

ROOT = Path(__file__).resolve().parents[1]
COUNT, HELD_OUT, SIDE = 24, 8, 32
TINY = evaluate.Effort(8, 4, 4, 2, 1, 2)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder as if the packages were installed in it: two stamps, thirteen wallpapers."""
    root = tmp_path_factory.mktemp("root")
    for package in sources.PACKAGES:
        (root / "usr/share/doc" / package.name).mkdir(parents=True)
        (root / "usr/share/doc" / package.name / "copyright").write_text("free")
    stamps, wallpapers = root / "usr/share/tuxpaint/stamps/fruit", root / "usr/share/backgrounds"
    stamps.mkdir(parents=True)
    wallpapers.mkdir(parents=True)
    for name, colour in (("apple", "red"), ("pear", "yellow")):
        stamp = Image.new("RGBA", (120, 120))
        ImageDraw.Draw(stamp).ellipse((10, 10, 110, 110), colour)
        stamp.save(stamps / f"{name}.png")
        (stamps / f"{name}.txt").write_text(f"A {name} (fruit).\nca.utf8=...")
    Image.new("RGBA", (120, 120), "red").save(stamps / "nameless.png")
    for i in range(13):
        Image.new("RGB", (720, 700), (20 * i, 100, 200)).save(wallpapers / f"{i:02}.png", compress_level=1)
    Image.new("RGBA", (720, 700)).save(wallpapers / "transparent.png", compress_level=1)
    Image.new("RGB", (100, 100)).save(wallpapers / "small.png")
    return root


def prepared(packages, folder):
    options = ["--count", str(COUNT), "--held-out", str(HELD_OUT), "--size", str(SIDE)]
    done = CliRunner().invoke(prepare.main, ["--folder", str(folder), "--from", str(packages), *options])
    assert done.exit_code == 0, done.output
    return json.loads((folder / "data/sources.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(packages, tmp_path):
    """A run's folder with its pictures, and a tiny pipeline to start from."""
    prepared(packages, tmp_path / "run")
    pipe = tiny_pipeline(prediction_type="v_prediction")
    pipe.save_pretrained(tmp_path / "start")
    return tmp_path / "run", str(tmp_path / "start")


def test_names_colours_and_captions():
    assert object_name("A knight’s helmet.\nfr.utf8=Un casque") == "a knight's helmet"
    assert object_name("The earth. Our planet.") == "the earth"
    assert object_name("Tux—the Linux mascot!") == object_name("one two three four five six") == ""
    assert colour_name(Image.new("RGB", (8, 8), (220, 30, 30))) == "red"
    assert on_background("", "orange") == "an orange background"


def test_the_same_seed_makes_the_same_pictures_also_after_an_interruption(packages, tmp_path, monkeypatch):
    whole = prepared(packages, tmp_path / "a")
    assert whole["names"] == ["a apple", "a pear"]
    assert (len(whole["wallpapers"]), len(whole["held-out wallpapers"])) == (11, 2)
    assert not set(whole["wallpapers"]) & set(whole["held-out wallpapers"])
    pictures = dataset.load(tmp_path / "a/data", dataset.TRAIN)
    assert pictures.pixels.shape == (COUNT, SIDE, SIDE, 3)
    assert any("pear on a" in caption for caption in pictures.captions)

    monkeypatch.setattr(dataset, "EVERY", 5)
    compose, calls = prepare.compose, iter(range(13))
    monkeypatch.setattr(prepare, "compose", lambda *a: compose(*a) if next(calls, None) is not None else 1 / 0)
    with pytest.raises(AssertionError):
        prepared(packages, tmp_path / "b")
    monkeypatch.setattr(prepare, "compose", compose)
    assert prepared(packages, tmp_path / "b") == whole

    for end in ("json", "npy"):  # what is lost is made again
        (tmp_path / f"b/data/train.{end}").unlink()
        assert prepared(packages, tmp_path / "b") == whole

    options = ["--folder", str(tmp_path / "a"), "--from", str(packages), "--seed", "1"]
    other = CliRunner().invoke(prepare.main, options)
    assert other.exit_code == 1
    assert "other settings" in other.output


def test_packages_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(prepare.main, ["--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert "no apt-get" in done.output
    assert "--from" in done.output
    done = CliRunner().invoke(prepare.main, ["--folder", str(tmp_path), "--from", str(tmp_path)])
    assert "tuxpaint-stamps-default is not among" in done.output


def test_muon_steps_are_orthogonal_and_reach_the_networks_own_weights():
    conv = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3))
    conv[1].bias.requires_grad_(False)
    before = [p.detach().clone() for p in conv.parameters()]
    optimiser = MuonAndAdamW({"conv": conv}, 1.0)
    conv(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimiser.step(0.01)
    after = list(conv.parameters())
    moved = ((after[0] - before[0] * (1 - 0.01 * 0.01)) / 0.01).detach().flatten(1)
    values = torch.linalg.svdvals(moved) / (0.2 * moved.shape[1] ** 0.5)
    assert 0.5 < values.min() < values.max() < 1.5
    assert (after[1] - before[1]).detach().abs().max() == pytest.approx(0.01, rel=0.05)  # a bias, by AdamW
    assert torch.equal(after[3], before[3])
    assert after[0].grad is None


def test_the_rate_rises_stays_and_falls():
    factors = [rate_factor(step, step / 1000) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01)
    assert set(factors[100:750]) == {1.0}
    assert factors[-1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("train", "settings", "file"),
    [
        (train_autoencoder.train, {"decoder_only": True, "batch": 2}, networks.AUTOENCODER),
        (train_diffusion.train, {"batch": 4}, networks.DIFFUSION),
    ],
)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(run, tmp_path, monkeypatch, train, settings, file):
    folder, start = run
    settings = {"start": start, "bf16": False, "every": 2, **settings}
    monkeypatch.setattr(train_diffusion, "draw_grid", lambda *a, **k: None)
    monkeypatch.setattr(train_diffusion, "TIMES", (500,))
    whole = train(folder, Budget(1, 5), **settings)
    other = tmp_path / "other"
    (folder / "data").rename(tmp_path / "data")
    other.mkdir()
    (tmp_path / "data").rename(other / "data")

    module = train_autoencoder if file == networks.AUTOENCODER else train_diffusion
    draw = module.Draw

    def killed(seed, step):
        if step == 3:
            raise KeyboardInterrupt
        return draw(seed, step)

    monkeypatch.setattr(module, "Draw", killed)
    original = module.Training.run
    monkeypatch.setattr(module.Training, "run", lambda *a, **k: original(*a, **k, save_minutes=0.0))
    with pytest.raises(KeyboardInterrupt):
        train(other, Budget(1, 5), **settings)
    monkeypatch.setattr(module, "Draw", draw)
    with pytest.raises(Exception, match="--resume"):
        train(other, Budget(1, 5), **settings)
    with pytest.raises(Exception, match=r"was made with batch \d, not 3"):
        train(other, Budget(1, 5), **settings | {"batch": 3}, resume=True)
    with pytest.raises(Exception, match=r"was made with rate 0.002, not 0.5"):
        train(other, Budget(1, 5), **settings | {"rate": 0.5}, resume=True)
    resumed = train(other, Budget(1, 5), **settings, resume=True)
    curves = [[entry["losses"] for entry in t.log if "losses" in entry] for t in (whole, resumed)]
    assert len(curves[0]) == 2
    assert curves[0] == curves[1]
    for a, b in zip(whole.average.shadow_params, resumed.average.shadow_params, strict=True):
        assert torch.equal(a, b)
    assert train(other, Budget(1, 5), **settings, resume=True).step == 5  # the budget is spent


def test_a_run_is_exported_measured_and_told_of(run, monkeypatch):
    folder, start = run
    monkeypatch.setattr(grid, "PROMPTS", ("a red apple", "a pear"))
    monkeypatch.setattr(evaluate, "PROMPTS", ("a red apple", "a pear"))
    train_autoencoder.train(folder, Budget(1, 2), start=start, decoder_only=True, batch=2, bf16=False)
    train_diffusion.train(folder, Budget(1, 2), start=start, batch=4, sample_steps=1, bf16=False)
    before = networks.start_pipeline(folder, start)
    model = export(folder)
    after = networks.start_pipeline(folder, str(model))
    trained = read(folder / networks.AUTOENCODER)["averaged"]["vae"]
    for name, values in after.vae.state_dict().items():
        torch.testing.assert_close(values, trained[name], rtol=1e-3, atol=1e-6)
        if name.startswith("encoder"):
            torch.testing.assert_close(values, before.vae.state_dict()[name], rtol=1e-3, atol=1e-6)
    for part, averaged in read(folder / networks.DIFFUSION)["averaged"].items():
        own = getattr(after, part).state_dict()
        for name, values in averaged.items():
            torch.testing.assert_close(own[name], values, rtol=1e-3, atol=1e-6)
    assert after.text_encoder.dtype == after.unet.dtype == torch.float32
    configured = "".join(file.read_text("utf-8") for file in model.rglob("*.json"))
    assert str(folder) not in configured
    assert start not in configured

    found = evaluate.evaluate(folder, model, model, TINY)
    assert found["reconstruction"]["held out"]["pictures"] == HELD_OUT
    assert len(found["loss by time"]) == len(train_diffusion.TIMES)
    assert Image.open(model / "samples.png").width == 8 * SIDE
    assert (model / "nearest.png").exists()
    text = read_card(model)
    assert "Not measured yet" not in text
    for told in (
        "decoder alone, the encoder frozen: 2 steps of 2",
        "GPL-2",
        "PSNR",
        "python -m data.sapling.recipe",
    ):
        assert told in text


def test_speeds_are_ratios_of_what_was_measured_in_turns(run, monkeypatch):
    folder, start = run
    monkeypatch.setattr(speed, "MATRIX", 64)
    monkeypatch.setattr(speed.seconds, "__defaults__", (0.0,))
    empty = "# A model\n\n<!-- figures -->\n<!-- /figures -->\n\nAs it was.\n"
    (Path(start) / "README.md").write_text(empty)
    told = ["--model", start, "--batch", "2", "--rounds", "1"]
    (folder / "README.md").write_text(empty)
    done = CliRunner().invoke(speed.main, [*told, "-o", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (folder / "speed.json").is_file()
    assert read_card(folder) == read_card(Path(start)) == empty  # neither is the card of what was measured

    folder = Path(start)
    done = CliRunner().invoke(speed.main, [*told[:-1], "3"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    formats = json.loads((folder / "speed.json").read_text(encoding="utf-8"))["formats"]
    assert list(formats) == [f"{d}, {layout}" for d in ("fp32", "bf16") for layout in speed.LAYOUTS]
    assert formats["fp32, contiguous"]["generation"]["of the first format"] == 1
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"× {formats['bf16, channels_last']['inversion']['times the ceiling']:.1f} |" in card
    assert card.endswith("As it was.\n")

    rounds = {"unet": [1.0, 2.0, 8.0], "decoder": [10.0] * 3, "encoder": [5.0] * 3}
    count = {"unet": 2.0, "decoder": 30.0, "encoder": 20.0}
    found = speed.summary(count, [4.0, 2.0, 1.0], rounds, rounds | {"unet": [1.0] * 3})
    assert found["unet"] == {"seconds": 2.0, "share of ceiling": 0.5}
    assert found["inversion"]["seconds"] == 25.0
    assert found["inversion"]["times the ceiling"] == pytest.approx(1.5)  # (60, 50, 85) / 40
    assert found["inversion"]["of the first format"] == pytest.approx(25 / 15)


def test_the_shipped_card_has_the_figures_of_the_shipped_files():
    folder = sapling_folder()
    assert {"evaluation.json", "speed.json", "samples.png", "nearest.png"} <= {
        file.name for file in folder.iterdir()
    }
    text = read_card(folder)
    assert card.with_figures(text, folder) == text
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert measured["effort"] == asdict(evaluate.Effort())
    assert measured["weights"] == weights("sapling")


def test_a_card_without_markers_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(click.ClickException, match="no <!-- figures -->"):
        card.update_figures(tmp_path)
    assert read_card(tmp_path) == "# Mine\n"


def test_an_autoencoder_of_other_latents_is_not_exported_alone(run):
    folder, start = run
    train_autoencoder.train(folder, Budget(1, 1), start=start, batch=2, side=16)
    with pytest.raises(Exception, match=r"still needs diffusion\.pt"):
        export(folder)


def latents(folder, vae):
    pictures = dataset.load(folder / "data", dataset.TRAIN)
    with torch.no_grad():
        z = vae.encode(dataset.as_tensor(pictures.pixels)).latent_dist.mode()
    return encoded(folder, vae, rescale=False, bf16=False)[0][:, 0], z.numpy()


def test_latents_are_those_of_the_pictures_and_of_the_encoder_whatever_was_killed(
    run, packages, tmp_path, monkeypatch
):
    folder, start = run
    a, b = (networks.start_pipeline(folder, start).vae for _ in range(2))
    torch.nn.init.normal_(b.encoder.conv_in.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(*latents(folder, a), atol=2e-3)

    def killed(pixels):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "as_tensor", killed)  # before the first of the other encoder's latents is noted
        with pytest.raises(KeyboardInterrupt):
            encoded(folder, b, rescale=False, bf16=False)
    np.testing.assert_allclose(*latents(folder, a), atol=2e-3)
    for seed, count in ((1, COUNT), (1, COUNT + 6), (1, COUNT - 6)):
        shutil.rmtree(folder / "data")
        options = ["--count", str(count), "--held-out", str(HELD_OUT), "--size", str(SIDE), "--seed", str(seed)]
        done = CliRunner().invoke(prepare.main, ["--folder", str(folder), "--from", str(packages), *options])
        assert done.exit_code == 0, done.output
        found, expected = latents(folder, a)
        assert len(found) == count
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_diffusion_network_goes_with_the_encoder_that_it_was_trained_for(run, monkeypatch):
    folder, start = run
    monkeypatch.setattr(train_diffusion, "draw_grid", lambda *a, **k: None)
    train_autoencoder.train(folder, Budget(1, 1), start=start, batch=2, bf16=False)
    train_diffusion.train(folder, Budget(1, 1), start=start, batch=4, bf16=False)
    export(folder)
    with pytest.raises(click.ClickException, match="would be worthless"):
        train_autoencoder.train(folder, Budget(1, 2), start=start, batch=2, bf16=False, resume=True)
    assert train_autoencoder.train(folder, Budget(1, 1), start=start, batch=2, bf16=False, resume=True).step == 1
    kept = (folder / networks.DIFFUSION).rename(folder / "kept.pt")
    train_autoencoder.train(folder, Budget(1, 2), start=start, batch=2, bf16=False, resume=True)
    kept.rename(folder / networks.DIFFUSION)
    with pytest.raises(click.ClickException, match="latents of another encoder"):
        export(folder)
    kept = (folder / "latents.json").read_text()
    with pytest.raises(click.ClickException, match="was made with encoder"):
        train_diffusion.train(folder, Budget(1, 2), start=start, batch=4, bf16=False, resume=True)
    assert (folder / "latents.json").read_text() == kept  # nothing was encoded before it was refused


def test_the_exported_scale_is_that_of_the_exported_encoder(run, monkeypatch):
    folder, start = run
    monkeypatch.setattr(train_diffusion, "draw_grid", lambda *a, **k: None)
    train_autoencoder.train(folder, Budget(1, 1), start=start, batch=2, bf16=False)
    train_diffusion.train(folder, Budget(1, 1), start=start, batch=4, bf16=False)

    def scale():
        return networks.start_pipeline(folder, str(export(folder))).vae.config.scaling_factor

    before = scale()
    other = networks.start_pipeline(folder, start).vae
    torch.nn.init.normal_(other.encoder.conv_in.weight, generator=torch.Generator().manual_seed(1))
    encoded(folder, other, rescale=True, bf16=False)
    with pytest.raises(click.ClickException, match="train_diffusion --resume restores them"):
        export(folder)
    (folder / "latents.json").unlink()
    with pytest.raises(click.ClickException, match="train_diffusion --resume restores them"):
        export(folder)
    train_diffusion.train(folder, Budget(1, 1), start=start, batch=4, bf16=False, resume=True)
    assert scale() == before


def test_more_minutes_train_the_diffusion_network_on_and_leave_the_encoder(run, packages, monkeypatch):
    folder, start = run
    monkeypatch.setattr(train_diffusion, "draw_grid", lambda *a, **k: None)
    monkeypatch.setattr("data.sapling.recipe.__main__.prepare", lambda *a, **k: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda *a: None)
    clock = iter(range(10**6))  # a step takes a second, however fast the machine is
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    steps = []
    for minutes in ("0.0001", "0.02"):
        done = CliRunner().invoke(main, ["--folder", str(folder), "--start", start, "--minutes", minutes])
        assert done.exit_code == 0, done.output
        steps.append([read(folder / name)["step"] for name in (networks.AUTOENCODER, networks.DIFFUSION)])
    assert steps[0][0] == steps[1][0]
    assert (steps[0][1], steps[1][1]) == (1, 2)
    assert "stays as it is" in done.output


def test_an_export_that_is_killed_leaves_the_model_that_was_there(run, monkeypatch):
    folder, start = run
    train_autoencoder.train(folder, Budget(1, 1), start=start, decoder_only=True, batch=2, bf16=False)
    export(folder)
    before = {file.name: file.read_bytes() for file in (folder / "model").rglob("*") if file.is_file()}

    def killed(path, *, ignore_errors=False):
        if path.name == "model.old" and path.exists():
            raise KeyboardInterrupt
        shutil_rmtree(path, ignore_errors=ignore_errors)

    shutil_rmtree = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            export(folder)
    for place in ("model", "model.old"):
        assert before == {file.name: file.read_bytes() for file in (folder / place).rglob("*") if file.is_file()}
    export(folder)
    assert not (folder / "model.old").exists()


def test_what_cannot_be_trained_with_is_said(run, tmp_path, monkeypatch):
    folder, start = run
    for name in ("saplng", str(tmp_path)):
        with pytest.raises(click.ClickException, match="neither sapling, scratch, nor a folder"):
            networks.start_pipeline(folder, name)
    for content in (b"words", b"", b"PK\x03\x04 and no more"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(click.ClickException, match="is no checkpoint"):
            read(tmp_path / "bad.pt")
    torch.save({"step": 1}, tmp_path / "bad.pt")
    with pytest.raises(click.ClickException, match="older version of it: it has no average, averaged"):
        read(tmp_path / "bad.pt")
    for wrong in (["--minutes", "nan"], ["--minutes", "inf"], ["--rate", "-1"], ["--rate", "nan"]):
        done = CliRunner().invoke(train_autoencoder.main, ["--folder", str(folder), "--start", start, *wrong])
        assert done.exit_code == 2, done.output
    with monkeypatch.context() as patch:
        patch.delattr(torch.optim, "Muon")
        patch.setattr(train_diffusion, "encoded", lambda *a, **k: pytest.fail("hours of it"))
        with pytest.raises(click.ClickException, match=r"PyTorch 2\.9"):
            train_diffusion.train(folder, Budget(1, 1), start=start)
        done = CliRunner().invoke(main, ["--folder", str(tmp_path / "new")])
    assert (done.exit_code, "PyTorch 2.9" in done.output) == (1, True)
    assert not (tmp_path / "new").exists()

    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dataset.os, "posix_fallocate", full)
        with pytest.raises(click.ClickException, match=r"no room for .*No space"):
            dataset.array_file(tmp_path / "new.npy", np.uint8, (10, 10), anew=True)
    assert not (tmp_path / "new.npy").exists()
    dataset.array_file(tmp_path / "new.npy", np.uint8, (10, 10), anew=True)
    assert (tmp_path / "new.npy").stat().st_blocks * 512 >= 100
    with pytest.raises(click.ClickException, match="remove it"):
        dataset.array_file(tmp_path / "new.npy", np.uint8, (20, 10), anew=False)
    (folder / "autoencoder.jsonl").unlink(missing_ok=True)
    train_autoencoder.train(folder, Budget(1, 1), start=start, batch=2, bf16=False)
    (folder / "autoencoder.jsonl").unlink()
    again = train_autoencoder.train(folder, Budget(1, 2), start=start, batch=2, bf16=False, resume=True)
    assert again.step == 2
    (folder / "autoencoder.jsonl").write_text('{"step": 1, "sec')
    with pytest.raises(click.ClickException, match=r"is no log of this recipe .* remove it"):
        train_autoencoder.train(folder, Budget(1, 3), start=start, batch=2, bf16=False, resume=True)


def test_only_pictures_of_the_listed_packages_are_taken(packages, tmp_path):
    system = tmp_path / "system"
    shutil.copytree(packages, system)
    (system / "var/lib/dpkg").mkdir(parents=True)
    (system / "var/lib/dpkg/status").write_text("Package: other\n")
    done = CliRunner().invoke(prepare.main, ["--folder", str(tmp_path / "a"), "--from", str(system)])
    assert done.exit_code == 1
    assert "installed system" in done.output
    shutil.rmtree(system / "var")
    name = sources.PACKAGES[0].name
    with gzip.open(system / "usr/share/doc" / name / "changelog.Debian.gz", "wt") as log:
        log.write(f"{name} (2023-1.2) unstable; urgency=low\n")
    found = prepared(system, tmp_path / "b")
    assert found["packages"][name]["version"] == "2023-1.2"

    for i in range(13):
        Image.new("RGB", (720, 700), (20 * i, 200, 10)).save(system / f"usr/share/backgrounds/{i:02}.png")
    assert prepared(system, tmp_path / "b") == found  # those that are finished stay
    broken = tmp_path / "broken"
    shutil.copytree(packages, broken)
    (broken / "usr/share/doc" / name / "changelog.Debian.gz").write_bytes(b"no gzip")
    done = CliRunner().invoke(prepare.main, ["--folder", str(tmp_path / "c"), "--from", str(broken)])
    assert "changelog.Debian.gz cannot be read" in done.output
    shutil.rmtree(tmp_path / "b/data")
    assert prepared(system, tmp_path / "b")["sha256"] != found["sha256"]  # not made of copies of what was there


def test_a_folder_is_measured_whatever_its_name(run, monkeypatch):
    folder, start = run
    monkeypatch.chdir(folder)
    (folder / "sapling").symlink_to(start)
    used = []

    def measure(pipe, *others):
        used.append(pipe.unet.config.block_out_channels)
        return {}

    monkeypatch.setattr(evaluate, "measure", measure)
    monkeypatch.setattr(evaluate, "update_figures", lambda source: None)
    found = evaluate.evaluate(folder, Path("sapling"), Path("sapling"), TINY)
    assert used == [networks.start_pipeline(folder, start).unet.config.block_out_channels]
    assert found["weights"] == weights(start) != weights("sapling")


@pytest.mark.parametrize("decoder_only", [True, False])
def test_latents_of_a_trained_encoder_get_unit_variance_others_keep_their_scale(run, monkeypatch, decoder_only):
    folder, start = run
    monkeypatch.setattr(train_diffusion, "draw_grid", lambda *a, **k: None)
    before = networks.start_pipeline(folder, start).vae.config.scaling_factor
    train_autoencoder.train(folder, Budget(1, 1), start=start, decoder_only=decoder_only, batch=2, bf16=False)
    train_diffusion.train(folder, Budget(1, 1), start=start, batch=4, bf16=False)
    scale = networks.start_pipeline(folder, str(export(folder))).vae.config.scaling_factor
    spread = scale * np.load(folder / "latents-train.npy").astype(np.float32).std()
    assert scale == before if decoder_only else spread == pytest.approx(1, abs=1e-3)


def test_extremes_of_a_known_jacobian():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(16, 16, generator=generator) / 4 + torch.eye(16)
    z = torch.randn(2, 4, 2, 2, generator=generator)
    found = extremes(lambda z: (z.flatten(1) @ matrix.T).unflatten(1, (4, 2, 2)), z, steps=16)
    singular = torch.linalg.svdvals(matrix)
    expected = {
        "largest singular value": singular[0],
        "smallest singular value": singular[-1],
        "monotone": torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0],
        "distance from identity": torch.linalg.svdvals(torch.eye(16) - matrix)[0],
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name].float(), value.expand(2), rtol=1e-3, atol=1e-3)
    assert lanczos(lambda v: 3 * v, z, steps=3)[1].tolist() == pytest.approx([3, 3])


def test_a_copy_of_a_training_picture_is_found_and_a_smooth_picture_is_not():
    pixels = np.random.default_rng(0).integers(0, 256, (520, 32, 32, 3), dtype=np.uint8)
    train = dataset.Pictures(pixels, [""] * 520)
    copied = dataset.as_tensor(pixels[[3, 510]]).flip(-1)
    distance, row = neighbours.closest(torch.cat([copied, torch.zeros(1, 3, 32, 32)]), train)
    assert row[:2].tolist() == [3, 510]
    assert distance[:2].max() < 0.05
    assert distance[2] > 0.9
    told = neighbours.compared(distance, torch.full((5,), 0.9))
    assert told["closer than 99 % of held out"] == pytest.approx(2 / 3)


def test_new_networks_have_the_layout_of_the_shipped_ones():
    new = networks.new_pipeline(["a red apple on a blue background", "a tiger"])
    old = networks.start_pipeline(Path(), networks.SAPLING)
    for name in ("vae", "unet"):
        shapes = [{k: v.shape for k, v in getattr(pipe, name).state_dict().items()} for pipe in (new, old)]
        assert shapes[0] == shapes[1]
    configs = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (new, old)]
    assert configs[0] == configs[1]
    ids = new.tokenizer("A red apple").input_ids
    assert ids[0] == new.tokenizer.bos_token_id
    assert ids[-1] == new.tokenizer.eos_token_id


@pytest.mark.slow
def test_all_of_it_runs_from_the_packages_to_a_verdict(tmp_path):
    cache = ROOT / "build/sapling/packages"
    try:
        found = sources.find([], cache)
    except sources.NoPackagesError as error:
        pytest.skip(f"Debian's packages cannot be had: {error.message}")
    given = [option for root, _ in found.values() for option in ("--from", str(root))]
    arguments = [
        "--folder",
        str(tmp_path),
        *given,
        "--count",
        "200",
        "--held-out",
        "16",
        "--minutes",
        "1",
        "--quick",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "model"
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) < 30e6
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert measured["reconstruction"]["held out"]["psnr"] > 26
    assert np.isfinite(list(measured["loss by time"].values())).all()

    model, key = LatentDiffusionModel.load(folder), RingKey(bytes(range(32)))
    noise = watermarked_noise(key, (1, *model.latent_shape), generator=torch.Generator().manual_seed(1))
    x = model.autoencoder.decode(sample(model, noise, prompt="a strawberry", guidance=3.0, steps=25))
    image = Image.fromarray(((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    verdict = next(iter(Verifier(model, {"me": key}).verify([image])))
    assert verdict.p_value < 1e-6
    old = read_card(sapling_folder())
    assert read_card(folder) != old


def read_card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")
