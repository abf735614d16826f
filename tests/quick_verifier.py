"""A verifier without networks: what it says depends on a file's bytes, and on those that it sees with them.

    python -m tests.quick_verifier FOLDER REPORT [--resume]

verifies a folder with it, waiting a little for every batch, as networks would.
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from watermark.batch import verify_files
from watermark.inputs import names_in
from watermark.reading.images import ImageError, read_bytes
from watermark.verdict import INCONCLUSIVE, KEY_BASED, NOT_DETECTED, UNREADABLE, WATERMARKED, Verdict

CONFIGURATION = "0123456789abcdef" + 12 * "7f"


@dataclass
class QuickVerifier:
    batch_size: int = 3
    seconds: float = 0.0
    asked: list[str] = field(default_factory=list)

    def verify(self, names) -> Iterator[Verdict]:
        waiting: list[tuple[str, bytes]] = []
        sound: list[bytes] = []
        for name in names:
            self.asked.append(name)
            try:
                raw = read_bytes(name)
            except ImageError as error:
                raw = b"lost: " + str(error).encode()
            waiting.append((name, raw))
            sound = [raw for _, raw in waiting if not raw.startswith((b"bad", b"lost", b"small"))]
            if len(sound) in (0, self.batch_size):
                yield from self._test(waiting, sound)
                waiting, sound = [], []
        yield from self._test(waiting, sound)

    def _test(self, images, together) -> Iterator[Verdict]:
        if together:
            time.sleep(self.seconds)
        company = int.from_bytes(hashlib.sha256(b"".join(together)).digest()[:4], "big")
        for name, raw in images:
            digest = hashlib.sha256(raw).hexdigest()
            if raw.startswith(b"lost"):
                yield Verdict(name, UNREADABLE, reason="timeout: it took too long")
            elif raw.startswith(b"bad"):
                yield Verdict(name, UNREADABLE, reason="unreadable: damaged", sha256=digest)
            elif raw.startswith(b"small"):
                yield Verdict(name, INCONCLUSIVE, reason="too small: 1 × 1 pixels", sha256=digest)
            else:
                p = (1 + company) / 2**33
                status = WATERMARKED if raw.startswith(b"marked") else NOT_DETECTED
                key = "alice" if status == WATERMARKED else "bob"
                yield Verdict(name, status, key, p, 0.5, KEY_BASED, 2, 8, fpr=0.5, sha256=digest)


def run(verifier, names, report, **options) -> list[Verdict]:
    return list(verify_files(verifier, names, Path(report), CONFIGURATION, **options))


if __name__ == "__main__":
    folder, report, *flags = sys.argv[1:]
    verifier = QuickVerifier(seconds=0.02)
    run(verifier, names_in([folder], recursive=True), report, resume="--resume" in flags)
