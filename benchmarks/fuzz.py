"""Fuzzing: mutated files of every format through the image reader, and mutated key files through their parser.

Files are small and sound before they are changed: by one to six edits, which flip bits, write odd numbers, and
insert, repeat, swap or take out bytes. Half of the pictures then have the checksums and lengths of their containers
put right, so that decoders also get what a checksum would have kept from them. Mutation i depends on i and the seed
alone: a run resumes where it was stopped, and any mutation can be made again. Each picture is read, and fitted to a
model. Key files are read without a passphrase and, if they have one, with it; theirs is stretched by scrypt at its
lowest cost, and only for files that are spelled exactly.

What may come of it is a picture, a reason for no verdict, or a refusal with a code; of a key the unchanged one or a
refusal. Everything else is recorded as a failure, with the file: exceptions, key files that were changed and read,
anything that computes for more than five seconds, and the end of the process, or its standing still.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import signal
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
from pebble import ProcessExpired, ProcessPool
from PIL import Image
from rich.console import Console
from rich.progress import track

from watermark.keys import Pattern, RingKey
from watermark.keystore import encryption
from watermark.keystore.encryption import Passphrase
from watermark.keystore.entries import Entry, KeyStoreError
from watermark.keystore.keyfile import read_key_file, write_key_file
from watermark.reading.content import CODES
from watermark.reading.decoding import read_fitted

RESULTS = Path(__file__).resolve().parent / "results"
SEED = 20
CHUNK = 1000  # mutations that a process makes at a time
SLOW = 5.0  # seconds of computing for one file
WORDS = "correct horse"
ODD = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TARGETS = {"picture": ("read", "inconclusive", *CODES), "key": ("read", "refused")}
Files = dict[str, bytes]


class HangError(BaseException):
    """A file takes too long; nothing that catches exceptions of decoders catches this."""


@cache
def pictures() -> Files:
    """Small sound files of every format, by name."""
    ramps = [np.add.outer(np.arange(20) * a, np.arange(24) * b) % 256 for a, b in ((9, 4), (3, 7), (5, 2), (8, 8))]
    rgba = Image.fromarray(np.stack(ramps, -1).astype(np.uint8))
    rgb, grey = rgba.convert("RGB"), rgba.getchannel("R")
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((ramps[0] * 257).astype(np.uint16))

    def file(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(180)]}
    return {
        "png": file(rgb, "PNG", exif=exif),
        "png alpha": file(rgba, "PNG"),
        "png palette": file(palette, "PNG", transparency=2),
        "png 16": file(deep, "PNG"),
        "png animated": file(rgb, "PNG", **frames),
        "jpeg": file(rgb, "JPEG", exif=exif),
        "jpeg grey": file(grey, "JPEG", optimize=True),
        "jpeg progressive": file(rgb, "JPEG", progressive=True),
        "jpeg restarts": file(rgb, "JPEG", restart_marker_blocks=1),
        "jpeg cmyk": file(rgb.convert("CMYK"), "JPEG"),
        "webp": file(rgb, "WEBP"),
        "webp alpha": file(rgba, "WEBP", exif=exif),
        "webp lossless": file(rgba, "WEBP", lossless=True),
        "webp animated": file(rgb, "WEBP", **frames),
        "gif": file(palette, "GIF", transparency=1),
        "gif animated": file(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "bmp": file(rgb, "BMP"),
        "bmp palette": file(palette, "BMP"),
        "avif": file(rgba, "AVIF"),
    }


@cache
def key_files() -> Files:
    """Key files without and with a passphrase, by name."""
    found = {}
    patterns = (Pattern(), Pattern("levels", (0, 3), 2, 9))
    time_made = "2026-01-01T00:00:00+00:00"
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(encryption, "COST", 2),
        mock.patch.object(encryption.os, "urandom", bytes),
    ):
        for i, pattern in enumerate(patterns):
            key = RingKey(bytes(range(i, 32 + i)), pattern)
            entry = Entry("alice", key.id, time_made, "ü", "sapling", time_made if i else None, pattern)
            for name, words in ((f"plain {i}", None), (f"sealed {i}", Passphrase(WORDS))):
                write_key_file(Path(folder) / name, entry, key, words)
                found[name] = (Path(folder) / name).read_bytes()
    return found


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to six random edits."""
    out = bytearray(raw)
    for _ in range(rng.integers(1, 7)):
        at = int(rng.integers(0, len(out) + 1))
        length = int(min(rng.geometric(0.1), 200))
        other = int(rng.integers(0, len(out) + 1))
        match int(rng.integers(0, 9)):
            case 0 if at < len(out):
                out[at] ^= 1 << int(rng.integers(0, 8))
            case 1 if at < len(out):
                out[at] = int(rng.integers(0, 256))
            case 2:
                number, size = ODD[int(rng.integers(0, len(ODD)))], int(rng.choice([1, 2, 4]))
                order = ("big", "little")[int(rng.integers(0, 2))]
                out[at : at + size] = (number % 256**size).to_bytes(size, order)
            case 3:
                out[at:at] = rng.bytes(length)
            case 4:
                del out[at : at + length]
            case 5:
                out[at:at] = out[other : other + length]
            case 6:
                out[at : at + length] = out[other : other + length]
            case 7 if at < len(out):
                out[at] = ord("0123456789abcdef,"[int(rng.integers(0, 17))])
            case 8 if rng.random() < 0.2:
                del out[at:]
    return bytes(out)


def put_right(raw: bytes) -> bytes:
    """A picture with the checksums of a PNG's chunks, and the length of a WebP."""
    if raw[:4] == b"RIFF":
        return raw[:4] + struct.pack("<I", len(raw) - 8 & 0xFFFFFFFF) + raw[8:]
    out, at = bytearray(raw), 8
    while raw[1:4] == b"PNG" and at + 12 <= len(raw):
        end = at + 8 + int.from_bytes(raw[at : at + 4], "big")
        out[end : end + 4] = struct.pack(">I", zlib.crc32(raw[at + 4 : end])) if end + 4 <= len(raw) else b""
        at = end + 4
    return bytes(out)


def outcome(target: str, raw: bytes, folder: Path, *, sealed: bool = False) -> str:
    """What comes of a file: one of TARGETS if all is well, else what went wrong.

    Args:
        target: ``picture`` or ``key``.
        raw: its bytes.
        folder: where it is written to.
        sealed: whether its checksums are put right first.
    """
    file = folder / target
    file.write_bytes(put_right(raw) if sealed else raw)
    file.chmod(0o600)
    try:
        return picture_outcome(file) if target == "picture" else key_outcome(file, raw)
    except (Exception, HangError) as error:  # what is looked for
        return f"{type(error).__name__}: {error}"


def picture_outcome(file: Path) -> str:
    """What comes of reading and fitting a picture."""
    item = read_fitted(file, "picture", (32, 32))
    if item.pixels is not None and (item.pixels.shape != (32, 32, 3) or item.pixels.dtype != np.uint8):
        return f"pixels of {item.pixels.shape} {item.pixels.dtype}"
    if not f"{item.reason}{item.warnings}".isprintable():
        return f"not printable: {item.reason!r} {item.warnings!r}"
    return (
        item.status and (item.reason or "").partition(":")[0]
        if item.status == "unreadable"
        else item.status or "read"
    )


def key_outcome(file: Path, raw: bytes) -> str:
    """What comes of reading a key file, without and with a passphrase."""
    found = "refused"
    for words in (None, WORDS) if b'"sealed"' in raw else (None,):
        try:
            read_key_file(file, None if words is None else Passphrase(words))
        except KeyStoreError:
            continue
        found = "read" if raw in key_files().values() else "read, although it was changed"
    return found


def mutation(i: int) -> tuple[str, str, bytes, bool]:
    """Mutation i: target, name of the sound file, bytes, and whether its checksums are put right."""
    rng = np.random.default_rng([SEED, i])
    target = "key" if i % 4 == 3 else "picture"
    files = key_files() if target == "key" else pictures()
    name = sorted(files)[int(rng.integers(0, len(files)))]
    return target, name, mutate(files[name], rng), bool(rng.integers(0, 2)) and target == "picture"


def hang(*_: object) -> None:
    """The handler of the alarm."""
    raise HangError(f"more than {SLOW:g} seconds")


def run_chunk(first: int, count: int) -> dict[str, Any]:
    """Make mutations and count what comes of them."""
    counts: Counter[str] = Counter()
    failures = []
    slowest = (0.0, first)
    signal.signal(signal.SIGPROF, hang)
    with tempfile.TemporaryDirectory(prefix="treering-fuzz-") as folder:
        for i in range(first, first + count):
            target, name, raw, sealed = mutation(i)
            signal.setitimer(signal.ITIMER_PROF, SLOW)
            start = time.process_time()
            found = outcome(target, raw, Path(folder), sealed=sealed)
            seconds = time.process_time() - start
            signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, (seconds, i))
            if found in TARGETS[target]:
                counts[f"{target} | {name} | {found}"] += 1
            else:
                failures.append({"mutation": i, "what": found, "file": base64.b64encode(raw).decode()})
    return {"counts": dict(counts), "failures": failures, "slowest": slowest}


def chunks(done: int, mutations: int, workers: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The chunks that are left, in order: first mutation, number, and what came of them."""
    starts = iter(range(done, mutations, CHUNK))
    with ProcessPool(workers, context=get_context("forkserver")) as pool:

        def begin(first: int) -> tuple[int, int, Any]:
            count = min(CHUNK, mutations - first)
            return first, count, pool.schedule(run_chunk, (first, count), timeout=60 + SLOW * 20)

        waiting = [begin(first) for first in islice(starts, 2 * workers)]
        while waiting:
            first, count, future = waiting.pop(0)
            try:
                found = future.result()
            except (ProcessExpired, TimeoutError) as error:
                what = f"the process ended or hung in mutations {first} to {first + count - 1}: {error!r}"
                failure = {"mutation": first, "what": what, "file": ""}
                found = {"counts": {}, "failures": [failure], "slowest": (SLOW, first)}
            yield first, count, found
            waiting += [begin(first) for first in islice(starts, 1)]


def add(result: dict[str, Any], count: int, found: dict[str, Any], seconds: float) -> None:
    """Add what came of a chunk to a result."""
    counts = Counter(result.setdefault("counts", {})) + Counter(found["counts"])
    result["counts"] = dict(sorted(counts.items()))
    result["mutations"] = result.get("mutations", 0) + count
    result["seconds"] = result.get("seconds", 0.0) + seconds
    result["failures"] = result.get("failures", []) + found["failures"]
    result["hangs"] = sum(bool(re.search("HangError|ended or hung", each["what"])) for each in result["failures"])
    slowest, i = max(
        tuple(found["slowest"]), tuple(result.get("slowest", {"seconds": 0.0, "mutation": 0}).values())
    )
    result["slowest"] = {"seconds": slowest, "mutation": i}


def readme_table(result: dict[str, Any]) -> str:
    """The result as a table in Markdown."""
    total: Counter[tuple[str, str]] = Counter()
    for name, count in result["counts"].items():
        target, _, found = name.split(" | ")
        total[target, found] += count
    rows = [f"| {target} | {found} | {count:,} |" for (target, found), count in sorted(total.items())]
    failures = f"| any | neither, or more than {SLOW:g} s | {len(result['failures'])} |"
    return "\n".join(["| mutated | what came of it | files |", "|---|---|---|", *rows, failures])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--mutations", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(mutations: int, workers: int, output: Path) -> None:
    """Fuzz the image reader and the parser of key files; exits with 1 if anything fails."""
    from benchmarks.record import resume, write

    sound = b"".join([*pictures().values(), *key_files().values()])
    settings = {"seed": SEED, "files": hashlib.sha256(sound).hexdigest()}
    result = resume("fuzz", settings, output)
    left = -(-max(0, mutations - result.get("mutations", 0)) // CHUNK)
    before = time.monotonic()
    todo = chunks(result.get("mutations", 0), mutations, workers)
    for _, count, found in track(todo, "fuzzing", total=left, console=Console(stderr=True)):
        add(result, count, found, time.monotonic() - before)
        before = time.monotonic()
        write("fuzz", result, output)
    path = write("fuzz", result, output)
    click.echo(readme_table(result))
    slowest = result["slowest"]
    click.echo(f"slowest: {slowest['seconds']:.2f} s of computing, mutation {slowest['mutation']}")
    click.echo(f"{result['mutations'] / result['seconds']:.0f} mutations a second")
    click.echo(f"wrote {path}")
    raise SystemExit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
