"""Keys: a secret, and the kind of pattern that it stands for in the Fourier transform of noise."""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32
KINDS = ("dense", "rings", "levels", "zeros")


@dataclass(frozen=True)
class Pattern:
    """What a key writes into the Fourier transform of the noise, and where.

    - ``dense`` (default): a value of its own for every pair of conjugate bins. Holds far more evidence than rings
      do. To find it in a turned picture, :mod:`watermark.search` has to turn the noise back.
    - ``rings``: one real value for each ring and channel, Gaussian. Wen et al. 2023,
      https://arxiv.org/abs/2305.20030, but Hermitian. The same from every angle about the corner of the latent, not
      about the centre of the picture: turned pictures have to be turned back here, too, and lose more.
    - ``levels``: rings of +1 and −1, farther apart from each other than Gaussian ones; as RingID,
      https://arxiv.org/abs/2404.14055.
    - ``zeros``: nothing but less energy. Every such key is the same, so that it can say "marked", not by whom.

    Args:
        kind: see above.
        channels: the marked channels; None is as few, evenly spread, as give 16 rings.
        inner: the smallest marked radius in cycles across the shorter side, ≥ 1; below 3 lies the layout of the
            picture, which comes back worst.
        outer: the largest marked radius, ≥ inner; None is 5/16 of the shorter side.

    Raises:
        ValueError: if an argument is out of range.
    """

    kind: str = "dense"
    channels: tuple[int, ...] | None = None
    inner: int = 3
    outer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {self.kind!r}")
        if self.channels is not None and not (
            isinstance(self.channels, tuple) and all(type(c) is int for c in self.channels)
        ):
            raise ValueError(f"channels must be a tuple of whole numbers, got {self.channels!r}")
        if type(self.inner) is not int or not (self.outer is None or type(self.outer) is int):
            raise ValueError(f"inner and outer must be whole numbers, got {self.inner!r} and {self.outer!r}")
        if self.channels is not None and (
            not self.channels or min(self.channels) < 0 or len(set(self.channels)) != len(self.channels)
        ):
            raise ValueError(f"channels must be different numbers from 0, at least one, got {self.channels}")
        if self.inner < 1:
            raise ValueError(f"inner must be at least 1, got {self.inner}")
        if self.outer is not None and self.outer < self.inner:
            raise ValueError(f"outer must be at least inner = {self.inner}, got {self.outer}")


@dataclass(frozen=True)
class RingKey:
    """A watermark key. Its secret never appears in its repr.

    Args:
        secret: 32 bytes. Whoever has them can mark pictures and prove marks.
        pattern: what it writes.
    """

    secret: bytes = field(repr=False)
    pattern: Pattern = Pattern()

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != SECRET_BYTES:
            raise ValueError(f"secret must be {SECRET_BYTES} bytes")
        if not isinstance(self.pattern, Pattern):
            raise ValueError(f"pattern must be a Pattern, got {self.pattern!r}")

    @classmethod
    def generate(cls, pattern: Pattern = Pattern()) -> RingKey:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(SECRET_BYTES), pattern)

    @property
    def id(self) -> str:
        """A public name: 16 hexadecimal digits that tell nothing about the secret, whatever the pattern."""
        return self.derive("id", 8).hex()

    def derive(self, purpose: str, length: int) -> bytes:
        """``length`` bytes for one purpose, by HKDF-SHA256 (RFC 5869); other purposes tell nothing about them.

        HKDF gives at most 8,160 bytes at a time; longer ones are put together from numbered purposes.
        """
        parts = [
            HKDF(SHA256(), min(8160, length - start), salt=None, info=f"treering/1/{purpose}{suffix}".encode())
            for start in range(0, length, 8160)
            for suffix in ([f"/{start // 8160}"] if start else [""])
        ]
        return b"".join(part.derive(self.secret) for part in parts)

    def user(self, name: str) -> RingKey:
        """A user's own key, so that one master secret serves many; unrelated to it for all who lack it.

        A name in composed and decomposed characters (Unicode NFC and NFD) is one name.
        """
        return RingKey(self.derive(f"user/{unicodedata.normalize('NFC', name)}", SECRET_BYTES), self.pattern)
