"""Reports of many images: resumed, reused, refused, and whole whatever goes wrong."""

import json
import os
import resource
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.quick_verifier import CONFIGURATION, QuickVerifier, run
from watermark.batch import check_report, journal_of, rounded, verdict_of, verify_files, was_tested
from watermark.reports import journal, parquet
from watermark.reports.journal import aside_of
from watermark.verdict import INCONCLUSIVE, NOT_DETECTED, UNREADABLE, WATERMARKED, Verdict
from watermark.verify import NOT_FINITE


@pytest.fixture
def files(tmp_path):
    """Twenty files of all kinds, and one that is not there."""
    kinds = [b"marked", b"plain", b"bad", b"small", b"lost", b"plain", b"marked"]
    out = []
    for i in range(20):
        file = tmp_path / "images" / f"{i:02}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(kinds[i % len(kinds)] + (b" %d" % i if i % 5 else b" twice"))
        out.append(str(file))
    return [*out[:9], str(tmp_path / "missing"), *out[9:]]


def lost(name):
    """Whether an image has no hash, so that a run that goes on tests it again."""
    return Path(name).read_bytes().startswith(b"lost")


def table(report):
    return [json.loads(line) for line in Path(report).read_bytes().decode("ascii").splitlines()]


def test_rows_are_verdicts_in_order(files, tmp_path):
    verdicts = run(QuickVerifier(), files, tmp_path / "r.jsonl")
    rows = table(tmp_path / "r.jsonl")
    assert [row["name"] for row in rows] == files
    assert [verdict_of(row, row["name"]) for row in rows] == verdicts
    assert {row["configuration"] for row in rows} == {CONFIGURATION}
    assert {v.status for v in verdicts} == {WATERMARKED, NOT_DETECTED, INCONCLUSIVE, UNREADABLE}
    assert verdicts[9].reason == "not_found: no such file"


def test_the_same_image_is_tested_once(files, tmp_path):
    verifier = QuickVerifier()
    copy = tmp_path / "copy"
    copy.write_bytes(Path(files[0]).read_bytes())
    verdicts = run(verifier, [files[0], str(copy), files[1], str(copy)], tmp_path / "r.jsonl")
    assert verifier.asked == files[:2]
    assert [v.name for v in verdicts] == [files[0], str(copy), files[1], str(copy)]
    assert verdicts[1] == verdicts[3] == replace(verdicts[0], name=str(copy))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_run_that_ended_anywhere_is_resumed_to_the_same_report(files, tmp_path, batch_size):
    run(QuickVerifier(batch_size), files, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    report = tmp_path / "r.jsonl"
    lines = whole.splitlines(keepends=True)
    before = 0
    for line in lines:
        for cut in (before, before + 1, before + len(line) - 1):
            report.write_bytes(whole[:cut])
            verifier = QuickVerifier(batch_size)
            run(verifier, files, report, resume=True)
            assert report.read_bytes() == whole
            assert not aside_of(report).exists()
        before += len(line)
    report.write_bytes(whole)
    verifier = QuickVerifier(batch_size)
    run(verifier, files, report, resume=True)
    assert report.read_bytes() == whole
    again = [name for name in verifier.asked if not lost(name)]
    assert len(again) < batch_size  # those of the last batch, which more images might have filled


def test_other_names_and_another_order_reuse_what_is_known(files, tmp_path):
    report = tmp_path / "r.jsonl"
    first = {v.name: v for v in run(QuickVerifier(), files, report)}
    verifier = QuickVerifier(batch_size=1)
    Path(files[0]).rename(tmp_path / "renamed")
    Path(files[9]).write_bytes(b"marked and found again")
    now = [*files[:0:-1], str(tmp_path / "renamed")]
    verdicts = run(verifier, now, report, resume=True)
    assert [row["name"] for row in table(report)] == now
    assert {name for name in verifier.asked if not lost(name)} == {files[9]}
    for verdict in verdicts[:-1]:
        if verdict.name != files[9]:
            assert verdict == first[verdict.name]
    assert verdicts[-1] == replace(first[files[0]], name=now[-1])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_list_that_was_cut_short_costs_no_verdict(files, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow.parquet")
    report, whole = tmp_path / f"r.{ending}", tmp_path / f"whole.{ending}"
    for file in (report, whole):
        run(QuickVerifier(1), files, file)
    for named in (files[:3], files[5:], files[2:4]):
        assert len(run(QuickVerifier(1), named, report, resume=True)) == len(named)
        assert aside_of(journal_of(report)).exists()
    verifier = QuickVerifier(1)
    run(verifier, files, report, resume=True)
    assert all(map(lost, verifier.asked))
    assert report.read_bytes() == whole.read_bytes()
    assert not aside_of(journal_of(report)).exists()


def test_what_was_set_aside_outlives_an_end_in_between(files, tmp_path):
    report = tmp_path / "r.jsonl"
    run(QuickVerifier(1), files, report)
    now = [*files[::-1], *files]
    stopped = iter(now)

    def some():
        yield from (next(stopped) for _ in range(4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(QuickVerifier(1), some(), report, resume=True)
    assert aside_of(report).exists()
    with pytest.raises(ValueError, match="exists"):
        run(QuickVerifier(1), now, report)
    verifier = QuickVerifier(1)
    run(verifier, now, report, resume=True)
    assert all(map(lost, verifier.asked))
    assert not aside_of(report).exists()
    assert [row["name"] for row in table(report)] == now


def test_nothing_is_overwritten_or_mistaken(files, tmp_path):
    report = tmp_path / "r.jsonl"
    run(QuickVerifier(), files[:5], report)
    before = report.read_bytes()
    with pytest.raises(ValueError, match=r"r.jsonl exists; choose another name, or go on with it: --resume"):
        run(QuickVerifier(), files, report)
    for wrong, message in (
        (before.replace(CONFIGURATION.encode(), b"f" * 40), "made with other keys"),
        (before.replace(b'"status"', b"status", 1), "damaged in line 1"),
        (b"my only copy of a poem", "no report"),
        (b"[1, 2]\n", "no report"),
        (b'{"a": 1}\n', "no report"),
        (b'{"name": "my-package", "version": "1.0"}', "no report"),
        (b"[" * 200_000 + b"\n", "no report"),
        (b'{"name": "' + b"a" * 2_000_000, "no report"),
        (before.replace(b'"not_detected"', b'"bogus"', 1), "damaged in line"),
        (before.replace(b'"reason": ""', b'"reason": null', 1), "damaged in line"),
        (before.replace(b'"transforms_tried": 8', b'"transforms_tried": "8"', 1), "damaged in line"),
        (before.replace(b'"rho": 0.5', b'"rho": NaN', 1), "damaged in line"),
        (before.replace(b'"fpr": 0.5, ', b"", 1), "damaged in line"),
        (before.replace(CONFIGURATION.encode(), b"z" * 40), "damaged in line 1"),
    ):
        assert wrong != before
        report.write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            run(QuickVerifier(), files, report, resume=True)
        assert report.read_bytes() == wrong
    report.unlink()
    os.mkfifo(report)
    with pytest.raises(ValueError, match="not a regular file"):
        check_report(report, resume=True)
    with pytest.raises(ValueError, match=r"called something\.jsonl or something\.parquet, got 'r\.csv'"):
        check_report(Path("r.csv"), resume=False)


def test_a_report_is_not_written_twice_at_once(files, tmp_path):
    report = tmp_path / "r.jsonl"

    def meanwhile():
        yield from files[:4]
        with pytest.raises(ValueError, match="being written by another program"):
            run(QuickVerifier(), files, report, resume=True)
        yield from files[4:]

    run(QuickVerifier(), meanwhile(), report)
    assert len(table(report)) == len(files)


def test_a_report_stays_where_no_names_come(files, tmp_path):
    for ending in ("jsonl", "parquet"):
        if ending == "parquet":
            pytest.importorskip("pyarrow")
        report = tmp_path / f"r.{ending}"
        run(QuickVerifier(), files, report)
        before = report.read_bytes()
        assert run(QuickVerifier(), [], report, resume=True) == []
        assert report.read_bytes() == before
        assert run(QuickVerifier(), [], tmp_path / f"none.{ending}") == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "r.jsonl", "r.parquet"]


def test_parquet_escapes_all_that_is_not_utf8():
    row = {"name": "a\udcff", "key": "k\udcfe", "other_keys": ["fine", "\udcfd"], "p_value": 0.5, "number": None}
    assert parquet.plain(row) == {
        "name": "a\\udcff",
        "key": "k\\udcfe",
        "other_keys": ["fine", "\\udcfd"],
        "p_value": 0.5,
        "number": None,
    }


def test_a_parquet_report_is_not_written_twice_at_once(files, tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    report = tmp_path / "r.parquet"
    refused = []
    from_rows = parquet.from_rows

    def watched(journal, file):
        with pytest.raises(ValueError, match="being written by another program"):
            run(QuickVerifier(), files, report, resume=True)
        refused.append(file)
        from_rows(journal, file)

    monkeypatch.setattr(parquet, "from_rows", watched)
    run(QuickVerifier(), files[:12], report)
    run(QuickVerifier(), files, report, resume=True)
    assert refused == [report, report]
    assert [row["name"] for row in pq.read_table(report).to_pylist()] == files


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_finished_report_grows_as_one_run_would_have_made_it(files, tmp_path, batch_size):
    pq = pytest.importorskip("pyarrow.parquet")
    verifier = QuickVerifier(batch_size)
    run(verifier, files, tmp_path / "whole.jsonl")
    wanted = table(tmp_path / "whole.jsonl")
    for end in range(1, len(files), 3):
        for report in (tmp_path / f"{end}.jsonl", tmp_path / f"{end}.parquet"):
            run(verifier, files[:end], report)
            with closing(verify_files(verifier, files, report, CONFIGURATION, resume=True)) as begun:
                for _ in range(end // 2):
                    next(begun)
            run(verifier, files, report, resume=True)
        assert table(tmp_path / f"{end}.jsonl") == wanted
        assert pq.read_table(tmp_path / f"{end}.parquet").to_pylist() == wanted


def test_the_report_is_not_one_of_its_images(files, tmp_path):
    report = tmp_path / "r.jsonl"
    run(QuickVerifier(), [*files, str(report), str(tmp_path / "images" / ".." / "r.jsonl")], report)
    assert [row["name"] for row in table(report)] == files


def test_rows_appear_while_others_are_tested(files, tmp_path):
    report = tmp_path / "r.jsonl"
    counts = []

    def names():
        for name in files:
            counts.append(report.read_bytes().count(b"\n"))
            yield name

    run(QuickVerifier(1), names(), report)
    assert counts[5] >= 3
    assert counts[-1] >= len(files) - 3


def test_a_file_that_changes_between_two_looks_gets_the_verdict_of_what_was_tested(files, tmp_path):
    class Changing(QuickVerifier):
        def verify(self, names):
            def changed():
                for name in names:
                    if name == files[0]:
                        Path(name).write_bytes(b"marked anew")
                    yield name

            yield from super().verify(changed())

    copy = tmp_path / "copy"
    copy.write_bytes(Path(files[0]).read_bytes())
    verdicts = run(Changing(), [files[0], str(copy), files[1]], tmp_path / "r.jsonl")
    assert [v.name for v in verdicts] == [files[0], str(copy), files[1]]
    assert len({v.sha256 for v in verdicts}) == 3


def test_few_verdicts_wait_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr("watermark.batch.HELD", 10)
    names = []
    for i in range(60):
        names.append(str(tmp_path / f"{i:02}"))
        Path(names[-1]).write_bytes(b"plain %d" % (0 if i % 30 else i))
    report = tmp_path / "r.jsonl"
    waiting = []

    def asked():
        for i, name in enumerate(names):
            waiting.append(i - report.read_bytes().count(b"\n"))
            yield name

    verdicts = run(QuickVerifier(3), asked(), report)
    assert [v.name for v in verdicts] == names
    assert len({v.sha256 for v in verdicts}) == 3 - 1
    assert 10 <= max(waiting) <= 10 + 2 * 3


def test_a_full_disk_leaves_whole_rows(files, tmp_path):
    report = tmp_path / "r.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{report}'"):
            run(QuickVerifier(), files, report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = table(report)
    assert 2 <= len(kept) < len(files)
    run(QuickVerifier(), files, tmp_path / "whole.jsonl")
    run(QuickVerifier(), files, report, resume=True)
    assert report.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_folder_that_is_not_there_and_an_empty_run_leave_nothing(tmp_path, files):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run(QuickVerifier(), files, tmp_path / "nowhere" / "r.jsonl")
    assert run(QuickVerifier(), [], tmp_path / "r.jsonl") == []
    assert not (tmp_path / "r.jsonl").exists()


def test_parquet_has_the_same_rows(files, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    odd = tmp_path / os.fsdecode(b"\xff\n.png")
    odd.write_bytes(b"plain, oddly named")
    names = [*files, str(odd)]
    report = tmp_path / "r.parquet"
    seen = []

    def watched():
        for name in names:
            seen.append(journal_of(report).exists())
            yield name

    (tmp_path / "r.parquet.part").write_text("somebody's own")
    run(QuickVerifier(), watched(), report)
    run(QuickVerifier(), names, tmp_path / "r.jsonl")
    assert all(seen[1:])
    assert not journal_of(report).exists()
    assert (tmp_path / "r.parquet.part").read_text() == "somebody's own"
    (tmp_path / "r.parquet.part").unlink()
    rows = pq.read_table(report).to_pylist()
    wanted = table(tmp_path / "r.jsonl")
    wanted[-1]["name"] = wanted[-1]["name"].replace("\udcff", "\\udcff")
    assert rows == wanted
    verifier = QuickVerifier()
    with pytest.raises(ValueError, match="exists"):
        run(verifier, names, report)
    run(verifier, names, report, resume=True)
    assert len([name for name in verifier.asked if Path(name).exists() and not lost(name)]) < 3
    assert pq.read_table(report).to_pylist() == rows
    assert sorted(p.name for p in tmp_path.glob("r.*")) == ["r.jsonl", "r.parquet"]
    report.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no report"):
        run(verifier, names, report, resume=True)
    assert report.read_bytes() == b"nonsense"
    run(verifier, names, tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="made with other keys"):
        list(verify_files(verifier, names, tmp_path / "other.parquet", "f" * 40, resume=True))
    found = sorted(p.name for p in tmp_path.iterdir() if p.is_file() and p != odd)
    assert found == ["other.parquet", "r.jsonl", "r.parquet"]


def test_a_killed_parquet_run_is_resumed_from_its_journal(files, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    run(QuickVerifier(), files, tmp_path / "whole.parquet")
    report = tmp_path / "r.parquet"
    run(QuickVerifier(), files, tmp_path / "r.jsonl")
    journal_of(report).write_bytes((tmp_path / "r.jsonl").read_bytes()[:2500])
    verifier = QuickVerifier()
    run(verifier, files, report, resume=True)
    assert pq.read_table(report).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert len(verifier.asked) < len(files) - 3


def test_numbers_are_rounded_to_what_batches_do_not_change():
    verdict = rounded(Verdict("a", WATERMARKED, p_value=1.23456e-9, rho=0.51249, correlation=-0.0001))
    assert (verdict.p_value, verdict.rho, str(verdict.correlation)) == (1.2e-9, 0.512, "0.0")
    assert rounded(Verdict("a", UNREADABLE)) == Verdict("a", UNREADABLE)
    for status, p, fpr in ((NOT_DETECTED, 1.04e-6, 1e-6), (WATERMARKED, 0.996e-6, 0.997e-6)):
        row = rounded(Verdict("a", status, p_value=p, fpr=fpr))
        assert (row.p_value <= fpr) == (status == WATERMARKED)


def test_asdict_has_every_column_of_parquet():
    from watermark.reports.parquet import COLUMNS, COUNTS, LISTS, NUMBERS

    assert set(NUMBERS) | set(COUNTS) | set(LISTS) <= set(COLUMNS)
    assert list(asdict(Verdict("a", WATERMARKED))) == list(COLUMNS[:-1])


def test_what_belongs_to_a_report_is_no_image_of_it(tmp_path):
    a, b = (tmp_path / name for name in "ab")
    a.write_bytes(b"marked")
    b.write_bytes(b"plain")
    report = tmp_path / "r.jsonl"
    run(QuickVerifier(1), [str(a), str(b)], report)
    run(QuickVerifier(1), [str(a)], report, resume=True)
    assert aside_of(report).exists()
    run(QuickVerifier(1), [str(a), str(aside_of(report))], report, resume=True)
    assert [row["name"] for row in table(report)] == [str(a)]


def test_noise_that_is_not_finite_was_tested():
    assert was_tested(asdict(Verdict("a", INCONCLUSIVE, reason=NOT_FINITE)))
    assert not was_tested(asdict(Verdict("a", INCONCLUSIVE, reason="flat: nothing to see")))


def test_rows_reach_the_disk_now_and_then(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"plain")
    monkeypatch.setattr(journal, "SYNC_SECONDS", -1.0)
    calls, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(fd) or sync(fd))
    run(QuickVerifier(1), [str(tmp_path / name) for name in "abc"], tmp_path / "r.jsonl")
    assert len(calls) >= 5  # three rows, and at the end
