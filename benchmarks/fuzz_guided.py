"""Fuzzing led by coverage: files that reach new lines of the readers are kept and changed further, by atheris.

    python -m benchmarks.fuzz_guided       250,000 files of each kind; Linux, x86-64

The files it starts from, what may come of them, and what counts as a failure are those of :mod:`benchmarks.fuzz`.
The coverage is that of Python code: treering's readers and Pillow's plugins; decoders in C are not instrumented.
Half of the pictures have the checksums and lengths of their containers put right. Each kind of file is fuzzed in a
process of its own, whose end is recorded as a failure, too.
"""

from __future__ import annotations

import base64
import json
import signal
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

SEED = 21
INSTRUMENTED = ["PIL", "watermark.keys", "watermark.keystore", "watermark.reading"]
LONGEST = 4096  # bytes of a file
RESULTS = Path(__file__).resolve().parent / "results"
Found = dict[str, Any]


def fuzz(target: str, runs: int, folder: Path) -> None:
    """Fuzz one kind of file, write ``found.json`` into a folder, and end the process.

    Args:
        target: ``picture`` or ``key``.
        runs: how many files are made.
        folder: an empty one; it also gets the corpus, and the file that ended the process, if one does.
    """
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):  # before anything imports them
        from benchmarks.fuzz import SLOW, TARGETS, hang, key_files, outcome, pictures, put_right

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        changed = bytes(atheris.Mutate(data, longest))
        return put_right(changed)[:longest] if target == "picture" and seed % 2 else changed

    counts: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    slowest = 0.0
    began = time.monotonic()

    def save() -> None:
        found = {
            "counts": dict(counts),
            "failures": failures,
            "slowest": slowest,
            "seconds": time.monotonic() - began,
        }
        corpus = len(list((folder / "corpus").iterdir()))
        (folder / "found.json").write_text(json.dumps(found | {"corpus": corpus}), encoding="utf-8")

    def test(data: bytes) -> None:
        nonlocal slowest
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        start = time.process_time()
        what = outcome(target, data, folder)
        slowest = max(slowest, time.process_time() - start)
        signal.setitimer(signal.ITIMER_PROF, 0)
        counts[what if what in TARGETS[target] else "failure"] += 1
        if what not in TARGETS[target]:
            failures.append({"what": what, "file": base64.b64encode(data).decode()})
        if counts.total() % 1000 == 0 or counts.total() >= runs:
            save()

    (folder / "corpus").mkdir()
    sound = pictures() if target == "picture" else key_files()
    for i, raw in enumerate(sound.values()):
        (folder / "corpus" / f"sound-{i}").write_bytes(raw)
    signal.signal(signal.SIGPROF, hang)
    options = [
        f"-runs={runs}",
        f"-seed={SEED}",
        f"-max_len={LONGEST}",
        "-timeout=60",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup(["fuzz_guided", *options, str(folder / "corpus")], test, custom_mutator=mutate)
    atheris.Fuzz()


def fuzzed(target: str, runs: int) -> Found:
    """What came of fuzzing one kind of file in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="treering-fuzz-") as name:
        folder = Path(name)
        process = get_context("spawn").Process(target=fuzz, args=(target, runs, folder))
        process.start()
        process.join()
        found: Found = {"counts": {}, "failures": [], "slowest": 0.0, "seconds": 0.0, "corpus": 0}
        if (folder / "found.json").exists():
            found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        if process.exitcode:
            left = [file.read_bytes() for kind in ("crash", "timeout", "oom") for file in folder.glob(f"{kind}-*")]
            what = f"the process ended with {process.exitcode}"
            found["failures"].append({"what": what, "file": base64.b64encode(b"".join(left[:1])).decode()})
    return found


def readme_table(result: Found) -> str:
    """The result as a table in Markdown."""
    lines = [
        "| files | runs | corpus in the end, with what it began with | read | refused, inconclusive or unreadable "
        "| failures |",
        "|---|---|---|---|---|---|",
    ]
    for target, found in result["found"].items():
        runs, read = sum(found["counts"].values()), found["counts"].get("read", 0)
        failures = found["counts"].get("failure", 0)
        refused = runs - read - failures
        lines.append(
            f"| {target} | {runs:,} | {found['corpus']:,} | {read:,} | {refused:,} | {len(found['failures'])} |"
        )
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", type=click.IntRange(1), default=250_000, show_default=True, help="Files of each kind.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(runs: int, output: Path) -> None:
    """Fuzz the image reader and the parser of key files by coverage; exits with 1 if anything fails."""
    from benchmarks.record import write

    found = {target: fuzzed(target, runs) for target in ("picture", "key")}
    result = {"settings": {"seed": SEED, "runs": runs, "instrumented": INSTRUMENTED}, "found": found}
    path = write("fuzz_guided", result, output)
    click.echo(readme_table(result))
    click.echo(f"wrote {path}")
    raise SystemExit(1 if any(each["failures"] for each in found.values()) else 0)


if __name__ == "__main__":
    main()
