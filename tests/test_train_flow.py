import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

from data.sapling.recipe import train_flow as recipe
from data.sapling.recipe import training
from inversion import LatentDiffusionModel, invert_diffusion, sample
from watermark import RingKey, detect, watermarked_noise


def run(folder, *options):
    return CliRunner().invoke(recipe.main, [str(folder), "--pairs", "4", *options])


def test_the_recipe_of_the_flow_model_runs_and_goes_on(tmp_path, monkeypatch):
    """Four pairs and two steps are no model; the folder is one that everything takes."""
    monkeypatch.setattr(recipe, "BATCH", 4)
    monkeypatch.setattr(recipe, "STEPS", 2)
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "tsconfig.json").write_text(others := "// not ours")
    draw = recipe.Draw

    def killed(seed, step):
        if step == 1:
            raise KeyboardInterrupt
        return draw(seed, step)

    clock = iter(range(10**6))  # a step takes a second
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(
        training.Training.run, "__kwdefaults__", training.Training.run.__kwdefaults__ | {"save_minutes": 0.0}
    )
    monkeypatch.setattr(recipe, "Draw", killed)
    assert run(folder, "--minutes", "0.03").exit_code == 1
    monkeypatch.setattr(recipe, "Draw", draw)
    done = run(folder, "--minutes", "0.03")
    assert done.exit_code == 0, done.output
    assert "2 steps" in done.output
    assert (folder / "tsconfig.json").read_text() == others
    model, key = LatentDiffusionModel.load(str(folder)), RingKey(bytes(range(32)))
    z_T = watermarked_noise(key, (1, 4, 32, 32), generator=torch.Generator().manual_seed(1))
    z_0 = sample(model, z_T, prompt="a rose", steps=2)
    back = invert_diffusion(model, z_0, method="implicit", steps=2, prompt="a rose").value
    assert (back - z_T).norm() < 0.01 * z_T.norm()
    assert detect(back, key).p_value[0] < 1e-30
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a rose", num_inference_steps=2).images[0].size == (128, 128)


def test_pairs_of_other_weights_and_broken_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "STEPS", 2)
    recipe.make_pairs(tmp_path, 2)
    noise, z = recipe.make_pairs(tmp_path, 2)
    assert noise.shape == z.shape == (2, 4, 32, 32)
    monkeypatch.setattr(recipe, "weights", lambda name: "other")
    done = run(tmp_path, "--minutes", "1")
    assert (done.exit_code, "other weights" in done.output) == (1, True)
    pairs = tmp_path / "pairs.pt"
    pairs.write_bytes(pairs.read_bytes()[:1000])
    done = run(tmp_path, "--minutes", "1")
    assert (done.exit_code, "remove it" in done.output) == (1, True)


@pytest.mark.parametrize("minutes", ["0", "nan", "-1"])
def test_no_time_is_no_training(tmp_path, minutes):
    assert run(tmp_path, "--minutes", minutes).exit_code == 2
