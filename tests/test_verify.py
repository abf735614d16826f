import json
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from inversion import LatentDiffusionModel
from watermark import Pattern, RingKey, Verifier, detect, watermarked_noise, with_calibration
from watermark.batch import OF_NOISE, rounded
from watermark.demo import jpeg, photographs
from watermark.generate import file_name, generate
from watermark.numbered import confirm
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import from_image
from watermark.transforms import Transform, transforms_of
from watermark.verdict import INCONCLUSIVE, NOT_DETECTED, UNREADABLE, WATERMARKED
from watermark.views import undo

OTHER = RingKey(b"\x42" * 32)


@pytest.fixture(scope="module")
def verifier(sapling, alice):
    return Verifier(sapling, {"alice": alice})


def test_marked_pictures_are_found(verifier, marked):
    for verdict in verifier.verify(marked):
        assert verdict.status == WATERMARKED
        assert verdict.key == "alice"
        assert verdict.p_value < 1e-6
        assert 0.45 < verdict.rho < 0.8


def test_marked_pictures_survive_jpeg(verifier, marked):
    verdicts = list(verifier.verify(jpeg(image) for image in marked))
    assert all(v.p_value < 1e-4 for v in verdicts)


def test_unmarked_pictures_and_photographs_are_not(verifier, unmarked):
    for verdict in verifier.verify(unmarked + photographs(4, (128, 128))):
        assert verdict.status == NOT_DETECTED
        assert verdict.p_value > 1e-4


def test_another_key_is_not_taken_for_it(sapling, marked, alice):
    wrong = {f"key {i}": RingKey(bytes([100 + i]) * 32) for i in range(20)}
    for verdict in Verifier(sapling, wrong).verify(marked):
        assert verdict.status == NOT_DETECTED
    for verdict in Verifier(sapling, wrong | {"alice": alice}).verify(marked):
        assert (verdict.status, verdict.key, verdict.keys_tried) == (WATERMARKED, "alice", 21)


def test_p_is_multiplied_by_the_number_of_keys(sapling, alice, unmarked):
    alone = [v.p_value for v in Verifier(sapling, {"alice": alice}).verify(unmarked)]
    both = list(Verifier(sapling, {"alice": alice, "other": OTHER}).verify(unmarked))
    for p, verdict in zip(alone, both, strict=True):
        if verdict.key == "alice":
            assert verdict.p_value == pytest.approx(min(1, 2 * p), rel=1e-6, abs=0)
        else:
            assert verdict.p_value <= min(1, 2 * p)


def test_decoder_inversion_brings_back_more_than_the_encoder(sapling, alice, marked):
    rho = {
        d: [v.rho for v in Verifier(sapling, {"alice": alice}, decoder=d).verify(marked)]
        for d in ("encoder", "shrinkage")
    }
    assert np.mean(rho["shrinkage"]) > np.mean(rho["encoder"])


def test_one_bad_image_does_not_stop_the_others(verifier, folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nonsense")
    Image.new("RGB", (128, 128), (9, 9, 9)).save(tmp_path / "flat.png")
    paths = [folder / "marked-0.png", bad, tmp_path / "flat.png", tmp_path / "none.png", folder / "unmarked-0.png"]
    verdicts = list(verifier.verify(paths))
    assert [v.status for v in verdicts] == [WATERMARKED, UNREADABLE, INCONCLUSIVE, UNREADABLE, NOT_DETECTED]
    assert [v.name for v in verdicts] == [str(p) for p in paths]
    assert verdicts[1].reason.startswith("unreadable: ")
    assert verdicts[2].reason.startswith("flat: ")
    assert verdicts[3].reason.startswith("not_found: ")
    assert verdicts[1].p_value is verdicts[2].p_value is None
    json.dumps([asdict(v) for v in verdicts], allow_nan=False)


def test_verdicts_do_not_depend_on_batches_order_or_threads(sapling, alice, marked, unmarked):
    images = [*marked[:2], *unmarked[:1]]
    plain = Verifier(sapling, {"alice": alice}, batch_size=1, steps=4)
    one = list(plain.verify(images))
    others = [
        list(replace(plain, batch_size=8).verify(images)),
        list(replace(plain, batch_size=2).verify(images[::-1]))[::-1],
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        others.append(list(plain.verify(images)))
    finally:
        torch.set_num_threads(threads)
    for verdicts in others:
        for a, b in zip(one, verdicts, strict=True):
            assert (a.status, a.key, a.transform) == (b.status, b.key, b.transform)
            assert a.p_value == pytest.approx(b.p_value, rel=1e-2, abs=0)  # 2e-3 was the most that was measured
            assert a.rho == pytest.approx(b.rho, abs=1e-5)
            assert rounded(a).p_value == pytest.approx(rounded(b).p_value, rel=0.11, abs=0)  # the last digit by one


def test_batches_are_full_where_some_images_cannot_be_tested(sapling, alice, folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    sizes = []

    class Watched(Verifier):
        def recover_noise(self, x):
            sizes.append(len(x))
            return super().recover_noise(x)

    bad, good = tmp_path / "bad.png", [folder / f"marked-{i}.png" for i in range(4)]
    images = [bad, good[0], bad, good[1], good[2], bad, bad, good[3], bad]
    watched = Watched(sapling, {"alice": alice}, steps=2, decoder="encoder", batch_size=2)
    verdicts = watched.verify(images)
    assert next(verdicts).status == UNREADABLE
    assert sizes == []  # what is not to be tested is not kept waiting
    assert [v.name for v in verdicts] == [str(image) for image in images[1:]]
    assert sizes == [2, 2]


def test_workers_read_what_the_calling_process_would(sapling, alice, folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    images = [folder / "marked-0.png", tmp_path / "bad.png", folder / "unmarked-0.png"]
    here = Verifier(sapling, {"alice": alice}, steps=2, decoder="encoder", batch_size=2)
    there = replace(here, workers=1)
    assert list(there.verify(images)) == list(here.verify(images))
    with closing(there.verify(iter(images * 20))) as verdicts:
        next(verdicts)
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        replace(here, workers=-1)


def test_images_are_read_as_they_are_needed(sapling, alice, marked):
    verifier = Verifier(sapling, {"alice": alice}, steps=1, decoder="encoder")
    taken = []

    def stream():
        for image in marked * 5:
            taken.append(1)
            yield image

    next(verifier.verify(stream()))
    assert len(taken) == verifier.batch_size


def test_latents_that_overflow_are_inconclusive(sapling, alice, marked):
    encode = sapling.autoencoder.encode

    def overflowing(x):
        z = encode(x)
        z[x.mean((1, 2, 3)) == x.mean((1, 2, 3))[0]] = torch.nan
        return z

    broken = replace(sapling, autoencoder=replace(sapling.autoencoder, encode=overflowing))
    verdicts = list(Verifier(broken, {"alice": alice}).verify(marked[:2]))
    assert [v.status for v in verdicts] == [INCONCLUSIVE, WATERMARKED]
    assert "not finite" in verdicts[0].reason
    assert verdicts[0].reason.startswith(OF_NOISE)
    (alone,) = Verifier(broken, {"alice": alice}).verify(marked[:1])
    assert alone.status == INCONCLUSIVE


def test_the_one_line_for_ones_own_pipeline(sapling, alice):
    from diffusers import StableDiffusionPipeline

    from inversion.embedded import sapling_folder

    pipe = StableDiffusionPipeline.from_pretrained(sapling_folder())
    pipe.set_progress_bar_config(disable=True)
    z_T = watermarked_noise(alice, (1, 4, 32, 32), generator=torch.Generator().manual_seed(1))
    image = pipe("a red apple", latents=z_T, num_inference_steps=20, guidance_scale=3.0).images[0]
    verifier = Verifier(LatentDiffusionModel.from_pipeline(pipe), {"alice": alice})
    (verdict,) = verifier.verify([image])
    assert verdict.status == WATERMARKED
    assert verifier.model.name == "sapling"
    assert with_calibration(verifier).calibration is not None


def test_null_images_count_once(sapling, alice, folder):
    from watermark.nulls import calibrate, given_nulls

    plain = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=1)
    nulls = given_nulls([folder / f"unmarked-{i}.png" for i in (0, 1)])
    once = calibrate(plain, [*nulls, *nulls])
    assert once.counts == calibrate(plain, nulls, start=once).counts == {"given": 2}


def test_a_verifier_keeps_the_keys_that_it_was_made_with(sapling, alice, unmarked):
    keys = {"alice": alice, "bob": RingKey(bytes(32))}
    verifier = Verifier(sapling, keys, decoder="encoder", steps=1)
    before = list(verifier.verify(unmarked[:1]))
    keys.clear()
    assert list(verifier.verify(unmarked[:1])) == before


def test_generated_pictures_do_not_depend_on_the_batch(sapling, alice):
    prompts = ["a tiger", "a strawberry", "a rose"]
    together, alone = (
        [
            np.asarray(g.image, dtype=int)
            for g in generate(sapling, prompts, key=alice, seed=3, steps=4, batch_size=n)
        ]
        for n in (3, 1)
    )
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a - b).max() <= 2


def test_the_noise_that_generation_starts_from_carries_the_key(sapling, alice):
    from watermark.generate import initial_noise

    assert detect(initial_noise(sapling, alice, 5), alice).p_value[0] < 1e-9
    assert detect(initial_noise(sapling, None, 5), alice).p_value[0] > 1e-3


def test_file_names_are_plain():
    assert file_name("A red apple, on a blue background!", 7) == "a-red-apple-on-a-blue-background-7.png"
    assert file_name("../../etc/passwd", 1) == "etc-passwd-1.png"
    assert file_name("日本", 2) == "picture-2.png"
    assert len(file_name("x" * 500, 3)) < 60


def test_bad_arguments_are_named(sapling, alice):
    with pytest.raises(ValueError, match="keys"):
        Verifier(sapling, {})
    for fpr in (0.0, 1.0):
        with pytest.raises(ValueError, match="fpr"):
            Verifier(sapling, {"alice": alice}, fpr=fpr)
    for bad in ({"steps": 0}, {"decoder": "x"}, {"numbers": [-1]}, {"numbers": range(10**7)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Verifier(sapling, {"alice": alice}, **bad)
    with pytest.raises(ValueError, match="batch_size"):
        Verifier(sapling, {"alice": alice}, batch_size=0)
    with pytest.raises(ValueError, match="batch_size"):
        next(generate(sapling, ["a rose"], key=alice, batch_size=-1))


def test_a_turned_picture_is_found_by_a_dense_key(sapling):
    key = RingKey(bytes(range(32)), Pattern("dense"))
    (made,) = generate(sapling, ["a red apple on a blue background"], key=key, seed=5, steps=20)
    turned = made.image.rotate(30, Image.Resampling.BICUBIC).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    keys = {"rings": RingKey(bytes(32)), "dense": key, "zeros": RingKey(bytes(32), Pattern("zeros"))}
    (plain,) = Verifier(sapling, keys).verify([turned])
    assert plain.status == NOT_DETECTED
    looking = Verifier(sapling, keys, transforms=transforms_of(rotations=36, mirrored=True))
    (seen,) = looking.verify([turned])
    assert (seen.status, seen.key) == (WATERMARKED, "dense")
    assert seen.transform == "mirrored, turned by 330°"
    assert (seen.keys_tried, seen.transforms_tried) == (3, 72)
    noise = looking.recover_noise(as_tensor([fit(from_image(turned), (128, 128))[0]])).numpy()
    single = detect(undo(noise, Transform(330, True)), key)
    assert seen.p_value == pytest.approx(3 * 72 * single.p_value[0], rel=1e-2, abs=0)
    assert seen.rho == pytest.approx(single.rho[0], rel=1e-3)


def test_videos_are_refused(sapling, alice):
    video = replace(sapling, latent_shape=(4, 8, 32, 32))
    with pytest.raises(ValueError, match="videos"):
        Verifier(video, {"alice": alice})
    with pytest.raises(ValueError, match="videos"):
        next(generate(video, ["a tiger"], key=alice, seed=1))
    with pytest.raises(ValueError, match="transforms"):
        Verifier(sapling, {"alice": alice}, transforms=())


def test_a_calibration_whitens_and_counts(sapling, alice, marked, unmarked, folder):
    from watermark.nulls import GIVEN, Null, calibrate, generated_nulls

    plain = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=5)
    nulls = [
        *(Null(GIVEN, image) for image in unmarked),
        Null(GIVEN, folder / "marked-0.png"),
        Null(GIVEN, folder / "none.png"),
    ]
    seen = []
    made = calibrate(plain, [*nulls, *generated_nulls(sapling, ["a rose"], 4, seed=9, steps=5)], seen.append)
    assert made.counts == {"given": 5, "unmarked": 2, "another key": 2}
    assert seen == list(range(1, 11))
    calibrated = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=5, calibration=made)
    (verdict,) = calibrated.verify(marked[:1])
    z = calibrated.recover_noise(as_tensor([fit(from_image(marked[0]), (128, 128))[0]]))
    single = detect(z, alice, whitening=made.whitening(alice.pattern)).p_value[0]
    assert verdict.p_value == pytest.approx(8 * single, rel=1e-3, abs=0)
    assert verdict.null_images == 9
    assert verdict.null_hits <= 1  # the picture itself is among them, whitened by other images there
    assert verdict.fpr_bound == pytest.approx(
        stats.binomtest(verdict.null_hits, 9).proportion_ci(0.9, "exact").high
    )
    (without,) = plain.verify(marked[:1])
    assert (without.status, without.evidence) == (WATERMARKED, "key-based")
    assert (without.null_hits, without.null_images, without.fpr_bound) == (None, None, None)
    with pytest.raises(ValueError, match="steps 5, not 10"):
        Verifier(sapling, {"alice": alice}, decoder="encoder", calibration=made)


def test_a_calibration_that_was_stopped_goes_on(sapling, alice, folder, tmp_path, monkeypatch):
    from watermark import nulls

    monkeypatch.setattr(nulls, "BETWEEN_SAVES", 2)
    plain = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=2, batch_size=1)
    files = [folder / f"unmarked-{i}.png" for i in (0, 1, 2, 0)]
    saved = []

    def stopped():
        yield from nulls.given_nulls(files)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nulls.calibrate(plain, stopped(), save=saved.append)
    (part,) = saved
    assert part.counts == {"given": 2}
    left = nulls.given_nulls(files, part.sources)
    assert [null.image for null in left] == [files[2]]
    prompts = {"seed": 9, "steps": 2}
    both = [*left, *nulls.generated_nulls(sapling, ["a rose"], 2, **prompts)]
    whole = nulls.calibrate(plain, both, start=part)
    assert whole.counts == {"given": 3, "unmarked": 1, "another key": 1}
    assert whole.sources[3:] == ("seed 9", "seed 10")
    np.testing.assert_array_equal(whole.noise[:2], part.noise)
    at_once = nulls.calibrate(plain, nulls.given_nulls(files))
    np.testing.assert_array_equal(whole.noise[:3], at_once.noise)
    more = nulls.generated_nulls(sapling, ["a rose"], 4, **prompts, known=whole.sources)
    assert [null.source for null in more] == ["seed 11", "seed 12"]
    other = nulls.generated_nulls(sapling, ["a tiger"], 2, **prompts, known=whole.sources)
    assert list(other) == []  # the same noise, whatever the prompt
    with pytest.raises(ValueError, match="does not say which images"):
        nulls.calibrate(plain, left, start=replace(part, sources=()))
    unreadable = tmp_path / "secret.png"
    assert [null.source for null in nulls.given_nulls([unreadable, *files[:1]])] == ["", part.sources[0]]
    other = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=3)
    with pytest.raises(ValueError, match="steps 2, not 3"):
        nulls.calibrate(other, left, start=part)


def test_a_mirrored_picture_is_found_without_being_asked_for(verifier, marked):
    (verdict,) = verifier.verify([marked[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert (verdict.status, verdict.transform, verdict.transforms_tried) == (WATERMARKED, "mirrored", 8)


def test_numbered_pictures_are_told_apart(sapling, alice):
    (made,) = generate(sapling, ["a red apple on a blue background"], key=alice, seed=17, numbered=True, steps=20)
    (right,) = Verifier(sapling, {"alice": alice}, numbers=range(10, 30)).verify([made.image])
    assert (right.status, right.number) == (WATERMARKED, 17)
    assert right.number_p_value < 1e-9
    assert right.correlation > 0.3
    (wrong,) = Verifier(sapling, {"alice": alice}, numbers=range(20, 30)).verify([made.image])
    assert (wrong.status, wrong.number) == (WATERMARKED, None)
    assert wrong.number_p_value > 1e-3
    assert abs(wrong.correlation) < 0.1
    for wrong in ({"key": None, "seed": 1}, {"key": alice}):
        with pytest.raises(ValueError, match="need a key"):
            next(generate(sapling, ["a rose"], **wrong, numbered=True))


def test_numbered_noises_are_made_once_a_batch(sapling, alice, marked, unmarked, monkeypatch):
    from watermark import verify

    batches = []
    monkeypatch.setattr(verify, "confirm", lambda z, *rest: batches.append(len(z)) or confirm(z, *rest))
    quick = Verifier(sapling, {"alice": alice}, steps=2, decoder="encoder", numbers=range(3))
    verdicts = list(quick.verify([marked[0], unmarked[0], marked[1].transpose(Image.Transpose.ROTATE_90)]))
    assert batches == [2]
    assert [v.correlation is None for v in verdicts] == [False, True, False]


def test_pictures_without_a_seed_cannot_be_made_again(sapling, alice):
    first, second = (next(generate(sapling, ["a rose"], key=alice, steps=1)) for _ in range(2))
    assert first.seed is second.seed is None
    assert np.asarray(first.image).tobytes() != np.asarray(second.image).tobytes()
    for seed in (-1, 2**32 - 1):
        with pytest.raises(ValueError, match="seeds of all pictures"):
            next(generate(sapling, ["a rose", "a tiger"], key=alice, seed=seed))


def test_a_calibration_in_the_models_folder_is_used_if_it_fits(sapling, alice, unmarked, tmp_path, monkeypatch):
    from watermark import verify
    from watermark.nulls import GIVEN, Null, calibrate

    plain = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=2)
    monkeypatch.setattr(verify, "sapling_folder", lambda: tmp_path)
    assert verify.with_calibration(plain).calibration is None
    made = calibrate(plain, [Null(GIVEN, image) for image in unmarked])
    made.save(tmp_path / "calibration.safetensors")
    assert verify.with_calibration(plain).calibration.counts == {"given": len(unmarked)}
    with pytest.raises(ValueError, match="'odd' does not fit the model: channels"):
        Verifier(sapling, {"odd": RingKey(bytes(32), Pattern(channels=(0, 7)))})
    for other in ({"steps": 3}, {"decoder": "anderson"}):
        settings = {"decoder": "encoder", "steps": 2} | other
        assert verify.with_calibration(Verifier(sapling, {"alice": alice}, **settings)).calibration is None
    (tmp_path / "calibration.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not a calibration"):
        verify.with_calibration(plain)


def test_keys_of_other_code_are_tested_with_ours(sapling, alice, marked):
    from watermark.published_keys import tree_ring_key

    theirs = tree_ring_key(999999, (4, 32, 32), radius=5)
    (verdict,) = Verifier(sapling, {"alice": alice, "theirs": theirs}).verify(marked[:1])
    assert (verdict.status, verdict.key, verdict.keys_tried) == (WATERMARKED, "alice", 2)
    with pytest.raises(ValueError, match="does not fit the model: it is made for latents"):
        Verifier(sapling, {"theirs": tree_ring_key(1, (4, 64, 64))})


def test_no_image_in_memory_stops_the_others(verifier, folder, marked, tmp_path):
    cut = tmp_path / "cut.jpg"
    marked[0].save(cut, quality=95)
    cut.write_bytes(cut.read_bytes()[:1500])
    images = [Image.new("RGB", (0, 0)), Image.open(cut), marked[0]]
    assert [v.status for v in verifier.verify(images)] == [INCONCLUSIVE, UNREADABLE, WATERMARKED]


def test_zeros_name_nobody(sapling, alice):
    zeros = RingKey(bytes(32), Pattern("zeros"))
    (made,) = generate(sapling, ["a red apple on a blue background"], key=zeros, seed=5, steps=10)
    (verdict,) = Verifier(sapling, {"zeros": zeros}).verify([made.image])
    assert (verdict.evidence, verdict.transforms_tried) == ("model-based", 1)
    assert any("not by whom" in warning for warning in verdict.warnings)


def test_a_numbered_picture_is_known_when_it_is_turned(sapling, alice):
    prompt = ["a red apple on a blue background"]
    (made,) = generate(sapling, prompt, key=alice, seed=17, numbered=True, steps=10)
    turned = made.image.transpose(Image.Transpose.ROTATE_90)
    (found,) = Verifier(sapling, {"alice": alice}, numbers=range(15, 19), decoder="encoder").verify([turned])
    assert (found.transform, found.number) == ("turned by 90°", 17)


def test_the_default_level_is_one_in_a_million(sapling, alice):
    assert Verifier(sapling, {"alice": alice}).fpr == 1e-6
