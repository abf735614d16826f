"""What a verifier undoes who does not know whether a picture was turned or cropped."""

from __future__ import annotations

import math
from functools import lru_cache

from watermark.transforms import Transform, transforms_of


@lru_cache(maxsize=1)
def wide_search(shape: tuple[int, ...]) -> tuple[Transform, ...]:
    """Mirroring and 72 angles, or a crop of both sides or of one to one of six shares, for latents (C, h, w).

    A crop of share c leaves its middle within ±½ h (1 − c) latent pixels of the picture's. Whole pixels are tried,
    and shares in steps of 0.05, so that along either side nothing is off by more than half a pixel for its place
    and 0.0125 h for its size, 0.4 of 32; the finest marked structure there, 10 cycles, is 3.2 long. Pictures turned
    *and* cropped would take the product of both, and are not looked for.
    """
    half = max(shape[-2:]) / 2
    crops = []
    for share in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7):
        moves = transforms_of(shifts=math.ceil(round(half * (1 - share), 9)))
        crops += [Transform(shift=moved.shift, crop=share) for moved in moves]
        crops += [Transform(shift=moved.shift, crop=(share, 1.0)) for moved in moves if moved.shift[1] == 0]
        crops += [Transform(shift=moved.shift, crop=(1.0, share)) for moved in moves if moved.shift[0] == 0]
    return (*transforms_of(72, mirrored=True), *crops)
