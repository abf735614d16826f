import torch
from click.testing import CliRunner

from data.sapling.recipe import train_flow as recipe
from inversion import LatentDiffusionModel, invert_diffusion, sample
from watermark import RingKey, detect, watermarked_noise


def test_the_recipe_of_the_flow_model_runs_and_goes_on(tmp_path, monkeypatch):
    """Four pairs and a second of training are no model; the folder is one that everything takes."""
    monkeypatch.setattr(recipe, "BATCH", 4)
    folder = tmp_path / "flow"
    for expected in ("1 steps in all", "2 steps in all"):
        clock = iter([0.0, 0.0, 2.0])
        monkeypatch.setattr(recipe.time, "monotonic", lambda clock=clock: next(clock, 2.0))
        done = CliRunner().invoke(recipe.main, [str(folder), "--pairs", "4", "--minutes", "0.02"])
        assert done.exit_code == 0, done.output
        assert expected in done.output
    model, key = LatentDiffusionModel.load(str(folder)), RingKey(bytes(range(32)))
    z_T = watermarked_noise(key, (1, 4, 32, 32), generator=torch.Generator().manual_seed(1))
    z_0 = sample(model, z_T, prompt="a rose", steps=1)
    back = invert_diffusion(model, z_0, steps=1, prompt="a rose").value
    assert (back - z_T).norm() < 0.01 * z_T.norm()
    assert detect(back, key).p_value[0] < 1e-30
