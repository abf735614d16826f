"""What can be said about one image."""

from __future__ import annotations

from dataclasses import dataclass

WATERMARKED, NOT_DETECTED = "watermarked", "not_detected"
INCONCLUSIVE, UNREADABLE = "inconclusive", "unreadable"

KEY_BASED, NULL_BASED, MODEL_BASED = "key-based", "null-based", "model-based"


@dataclass(frozen=True)
class Verdict:
    """What can be said about one image.

    How p was obtained is the ``evidence``:

    - ``key-based``: exact over the secret choice of the key, for any image, see :mod:`watermark.detection`, or over
      the draws of a key of other code, see :mod:`watermark.draws`. How often these very keys are found where they
      are not is another matter, which ``fpr_bound`` says.
    - ``null-based``, for keys of ``zeros`` and other keys of other code: the share of null images that fit as well.
      Images that carry another key of such a kind may fit more often, unless there are such null images, too.
    - ``model-based``, for such keys without null images: holds only if recovered noise is white and Gaussian, which
      it is not. Such an image is never called ``watermarked``.

    Attributes:
        name: the path that was read, or ``image 0``, ``image 1`` … for images in memory.
        status: at the level ``fpr`` ``watermarked``, ``not_detected``, ``inconclusive`` or ``unreadable``.
        key: name of the key that fits best, if a test was made.
        p_value: probability that any of the keys fits as well through any of the transformations in an image that
            carries none (Bonferroni); None without a test.
        rho: correlation of the marked Fourier bins with that key, about 0.7 for an unharmed mark; None without a
            test.
        evidence: how p was obtained, see above; empty without a test.
        keys_tried: number of keys that p_value is corrected for.
        transforms_tried: number of transformations that it is corrected for.
        transform: what was undone to see the key, in words; empty for nothing.
        fpr: the level; None without a test.
        other_keys: further keys that are in the image, by Holm's procedure at the level asked for.
        null_hits: how many null images of the calibration fit any of the keys as well, all transformations undone
            in them, too; for keys of ``zeros`` and of other code, that key. None without a calibration.
        null_images: how many there are.
        fpr_bound: 95 % upper bound on the rate at which unmarked images like the null images fit as well. Larger
            than p_value unless there are very many null images.
        number: which picture of the key it is, if numbers were given, the key was found and one of them fits at the
            level.
        correlation: of the noise outside the marked bins with that of the number that fits best: near 1 if nothing
            was lost, around 0 for a forgery that has the pattern of the key alone.
        number_p_value: probability that any of the numbers fits as well, if it is none of them.
        reason: why there is no verdict, or empty.
        warnings: what was not plain about the file, and how it was fitted to the model.
        sha256: of the file's bytes, or empty.
    """

    name: str
    status: str
    key: str | None = None
    p_value: float | None = None
    rho: float | None = None
    evidence: str = ""
    keys_tried: int = 0
    transforms_tried: int = 0
    transform: str = ""
    fpr: float | None = None
    other_keys: tuple[str, ...] = ()
    null_hits: int | None = None
    null_images: int | None = None
    fpr_bound: float | None = None
    number: int | None = None
    correlation: float | None = None
    number_p_value: float | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    sha256: str = ""


def coarse(verdict: Verdict) -> Verdict:
    """What a public detector may say of a verdict: yes or no.

    Whoever sees exact numbers can change an image a little at a time until its mark is gone, or until another's is
    there. So p is the level or 1, an image that was tested is ``watermarked`` or ``not_detected``, and nothing else
    is said but the key, its number and others that were found. Yes and no suffice for such attacks, too, with many
    more questions: limit these.
    """
    if verdict.p_value is None:
        return verdict
    kept = {field: getattr(verdict, field) for field in ("name", "keys_tried", "fpr", "warnings", "sha256")}
    if verdict.status != WATERMARKED:
        return Verdict(status=NOT_DETECTED, p_value=1.0, **kept)
    kept |= {field: getattr(verdict, field) for field in ("key", "evidence", "other_keys", "number")}
    return Verdict(status=WATERMARKED, p_value=verdict.fpr, **kept)
