"""Secrets sealed with a passphrase: scrypt (RFC 7914) makes a key of it, and AES-256-GCM seals with that key."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

COST = 2**17  # scrypt's n: 128 MiB, and about half a second
COST_LIMIT = 2**20  # more than this is refused, so that a forged file cannot fill the memory
SALT_BYTES = 16
NONCE_BYTES = 12


@dataclass(frozen=True)
class Stretch:
    """How a passphrase becomes a key; public.

    Args:
        salt: random, new for every store and every key file.
        cost: scrypt's n, a power of two; r is 8 and p is 1.

    Raises:
        ValueError: if the salt or the cost is not one that this module makes.
    """

    salt: bytes
    cost: int

    def __post_init__(self) -> None:
        if not isinstance(self.salt, bytes) or len(self.salt) != SALT_BYTES:
            raise ValueError(f"salt must be {SALT_BYTES} bytes")
        if type(self.cost) is not int or not 2 <= self.cost <= COST_LIMIT or self.cost & (self.cost - 1):
            raise ValueError(f"cost must be a power of two up to {COST_LIMIT}")

    @classmethod
    def new(cls) -> Stretch:
        """A new salt at today's cost."""
        return cls(os.urandom(SALT_BYTES), COST)


class Passphrase:
    """A passphrase and the keys that were made of it. Neither appears in its repr.

    Args:
        text: not empty. Letters that look the same are the same, however composed (Unicode's form NFC).

    Raises:
        ValueError: if the text is empty.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("the passphrase is empty")
        self._text = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
        self._ciphers: dict[Stretch, AESGCM] = {}

    def seal(self, stretch: Stretch, secret: bytes, context: bytes) -> bytes:
        """A random nonce and the ciphertext, which opens in the same context only; 28 bytes added."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher(stretch).encrypt(nonce, secret, context)

    def unseal(self, stretch: Stretch, sealed: bytes, context: bytes) -> bytes | None:
        """The secret, or None if the passphrase is another one, or any of the three arguments was changed."""
        try:
            return self._cipher(stretch).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, TypeError, ValueError):  # not bytes, or too short for a nonce
            return None

    def _cipher(self, stretch: Stretch) -> AESGCM:
        """The cipher of a salt; scrypt runs once for each."""
        if stretch not in self._ciphers:
            scrypt = Scrypt(stretch.salt, length=32, n=stretch.cost, r=8, p=1)
            self._ciphers[stretch] = AESGCM(scrypt.derive(self._text))
        return self._ciphers[stretch]
