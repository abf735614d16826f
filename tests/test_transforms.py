import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from watermark import Pattern
from watermark import views as module
from watermark.features import coordinates, marked_bins
from watermark.rings import rings_for
from watermark.transforms import Transform, transforms_of, wide_transforms
from watermark.views import coordinates_through, undo, views

RNG = np.random.default_rng(5)
SHAPES = [(2, 3, 32, 32), (1, 2, 24, 40), (2, 1, 3, 31, 32), (1, 1, 1, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [10, 45, 200, -75, 271.5])
def test_turning_is_undone_by_the_spline_of_ndimage(shape, angle):
    z = RNG.standard_normal(shape)
    wanted = ndimage.rotate(z, -angle, axes=(-1, -2), reshape=False, order=3, mode="constant")
    np.testing.assert_allclose(undo(z, Transform(angle=angle)), wanted, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shares", [(0.8, 0.8), (1.0, 0.75), (0.5, 0.9)])
def test_cropping_is_undone_by_the_spline_of_ndimage(shape, shares):
    z = RNG.standard_normal(shape)
    factor, centre = 1 / np.array(shares), (np.array(shape[-2:]) - 1) / 2
    wanted = [
        ndimage.affine_transform(plane, factor, centre - centre * factor, order=3, mode="constant")
        for plane in z.reshape(-1, *shape[-2:])
    ]
    np.testing.assert_allclose(undo(z, Transform(crop=shares)), np.reshape(wanted, shape), atol=1e-12)


@pytest.mark.parametrize("shift", [(3, -2), (0, 5), (1.5, 0), (-0.25, 2)])
def test_shifts_are_undone(shift):
    """By whole pixels the samples go back to where they were; by less, every frequency turns by its phase."""
    z = RNG.standard_normal((2, 3, 15, 32))
    turns = np.fft.fftfreq(15)[:, None] * shift[0] + np.fft.fftfreq(32)[None, :] * shift[1]
    wanted = np.fft.ifft2(np.fft.fft2(z) * np.exp(2j * np.pi * turns)).real
    np.testing.assert_allclose(undo(z, Transform(shift=shift)), wanted, atol=1e-12)
    if shift == (3, -2):
        np.testing.assert_array_equal(undo(np.roll(z, shift, (-2, -1)), Transform(shift=shift)), z)


def test_what_neighbours_share_is_not_mixed_up():
    """In whatever order the transformations come, each is undone as if alone."""
    z = RNG.standard_normal((2, 1, 12, 12))
    every = transforms_of(8, mirrored=True, shifts=1, crops=(0.8, (1.0, 0.75)))
    assert len(every) == 3 * 9 * 8 * 2
    for order in (np.arange(len(every)), RNG.permutation(len(every))):
        for i, view in zip(order, views(z, [every[i] for i in order]), strict=True):
            np.testing.assert_array_equal(view, undo(z, every[i]))


@pytest.mark.parametrize("kind", ["dense", "rings", "levels"])
@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (2, 4, 31, 40), (2, 4, 3, 17, 18)])
def test_shifted_views_are_transformed_once(kind, shape, monkeypatch):
    """Coordinates through shifts by whole pixels are those of the shifted noise, and need no transform of it."""
    rings = rings_for(shape, Pattern(kind))
    marked = RNG.standard_normal((shape[0], len(rings.channels), *shape[2:]))
    every = [
        *transforms_of(3, mirrored=True, shifts=2, crops=(0.8, (1.0, 0.75))),
        Transform(shift=(-20, 35), crop=0.9),
        Transform(360, shift=(1, 2)),
        Transform(shift=(0.5, 1)),
        Transform(flip=True, shift=(-3, 1.25)),
    ]
    every = [every[i] for i in RNG.permutation(len(every))]
    wanted = np.stack([coordinates(undo(marked, t), rings, kind)[0] for t in every], 1)
    looked = []
    monkeypatch.setattr(module, "marked_bins", lambda z, _: looked.append(z) or marked_bins(z, rings))
    found = coordinates_through(marked, every, rings, kind)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11)
    assert len(looked) == 3 * 2 * (1 + 2 * 25) + 4  # of angle 0 one, of two others every shift
    alone = coordinates_through(marked[1:2], every, rings, kind)
    np.testing.assert_array_equal(alone, found[1:2])


def test_turning_is_undone_in_the_picture_convention():
    """Counter-clockwise as one looks at the picture, like Pillow."""
    a = np.zeros((1, 1, 32, 32))
    a[0, 0, 8, 20] = 1
    turned = np.array(Image.fromarray(a[0, 0].astype(np.float32)).rotate(90))
    back = undo(turned[None, None].astype(float), Transform(angle=90))
    assert np.unravel_index(back.argmax(), back.shape) == (0, 0, 8, 20)


def test_an_exploded_sample_leaves_the_others_alone():
    noise = RNG.standard_normal((3, 4, 32, 32))
    alone = undo(noise[:1], Transform(crop=0.8))
    noise[1] *= 1e18
    np.testing.assert_array_equal(undo(noise, Transform(crop=0.8))[:1], alone)


@pytest.mark.parametrize(
    "done",
    [
        Transform(angle=75),
        Transform(angle=200, flip=True),
        Transform(crop=0.75, shift=(3, -2)),
        Transform(crop=(1.0, 0.85), shift=(0, 2)),
    ],
)
def test_the_wide_search_has_what_was_done_and_stays_near_it(done):
    for shape in ((4, 32, 32), (4, 64, 64)):
        places = wide_transforms(shape)
        assert done in places
        assert len(places) == len(set(places))
        farthest = max(max(place.shift) for place in places if place.crop == 0.75)
        assert farthest == shape[-1] / 8
        angles = sorted({place.angle for place in places})
        shares = sorted({min(place.shares) for place in places})
        assert max(np.diff(angles)) == 5 * 32 / shape[-1]
        assert max(np.diff(shares)) / 2 * shape[-1] / 2 <= 0.4 + 1e-9
    oblong = wide_transforms((4, 32, 64))
    assert {max(abs(place.shift[0]) for place in oblong), max(abs(place.shift[1]) for place in oblong)} == {5, 10}


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="crop"):
        Transform(crop=0)
    for wrong in ({"angle": float("nan")}, {"shift": (float("inf"), 0)}):
        with pytest.raises(ValueError, match="finite"):
            Transform(**wrong)


def test_what_is_looked_at_can_be_counted_and_said():
    assert transforms_of() == (Transform(),)
    assert str(Transform()) == ""
    every = transforms_of(rotations=4, mirrored=True, shifts=1, crops=(0.8, 1.0))
    assert len(every) == len(set(every)) == 4 * 2 * 9 * 2
    assert every[0] == Transform()
    assert (
        str(Transform(90, True, (1, 0), 0.8))
        == "mirrored, turned by 90°, moved by 1 down and 0 right, cropped to 0.8"
    )
    with pytest.raises(ValueError, match="rotations"):
        transforms_of(rotations=0)
