"""What people read below and in a table of verdicts."""

import io
from dataclasses import replace

from watermark.reports.tables import Rows, evidence_text, number_text, print_table, verdict_table
from watermark.reports.tally import Tally, duration
from watermark.verdict import (
    INCONCLUSIVE,
    KEY_BASED,
    MODEL_BASED,
    NOT_DETECTED,
    UNREADABLE,
    WATERMARKED,
    Verdict,
    coarse,
)


def cells(verdict):
    table = verdict_table([verdict])
    return [str(next(iter(column.cells))) for column in table.columns]


def test_a_table_says_what_was_undone_only_where_something_was_found():
    found = Verdict("a.png", WATERMARKED, "k", 1e-9, 0.6, KEY_BASED, 1, 8, "mirrored", other_keys=("b", "c"))
    assert cells(found)[-1] == "mirrored; also b, c"
    assert cells(Verdict("a.png", NOT_DETECTED, "k", 0.4, 0.01, KEY_BASED, 1, 8, "mirrored"))[-1] == ""


def test_numbers_in_words():
    assert number_text(Verdict("a", WATERMARKED)) == ""
    right = Verdict("a", WATERMARKED, number=7, correlation=0.81, number_p_value=1e-30)
    assert number_text(right) == "picture 7 (r = 0.81, p = 1e-30)"
    wrong = Verdict("a", WATERMARKED, correlation=0.01, number_p_value=0.3)
    assert number_text(wrong) == "none of the pictures (r = 0.01, p = 0.3)"


def test_the_public_is_told_nothing_to_climb_by():
    exact = Verdict(
        "a.png", WATERMARKED, "k", 3e-40, 0.61, KEY_BASED, 2, 8, "mirrored", 1e-6, ("b",), 0, 1000, 3e-3,
        7, 0.8, 1e-9, warnings=("resized",), sha256="ab",
    )  # fmt: skip
    told = coarse(exact)
    assert told == Verdict(
        "a.png", WATERMARKED, "k", 1e-6, evidence=KEY_BASED, keys_tried=2, fpr=1e-6, other_keys=("b",), number=7,
        warnings=("resized",), sha256="ab",
    )  # fmt: skip
    assert coarse(told) == told
    assert cells(told)[1:] == ["watermarked", "1e-06", "–", "k", "also b; picture 7; resized"]
    no = Verdict("a.png", NOT_DETECTED, p_value=1.0, keys_tried=2, fpr=1e-6, warnings=("resized",), sha256="ab")
    for status, p, evidence, places in (
        (NOT_DETECTED, 0.3, KEY_BASED, 8), (INCONCLUSIVE, 2e-6, KEY_BASED, 8), (INCONCLUSIVE, 1e-9, MODEL_BASED, 1),
    ):  # fmt: skip
        other = replace(exact, status=status, p_value=p, evidence=evidence, transforms_tried=places, reason="…")
        assert coarse(other) == no  # whatever is behind it
    assert evidence_text([no]) == "level 1e-06"
    unread = Verdict("x", UNREADABLE, reason="not_found: no such file")
    assert coarse(unread) == unread


def test_what_p_rests_on():
    assert evidence_text([Verdict("a", UNREADABLE, reason="x")]) == "nothing was tested"
    text = evidence_text([Verdict("a", NOT_DETECTED, "k", 0.5, 0.0, KEY_BASED, 2, 8, fpr=1e-6)]).splitlines()
    assert text[0] == "level 1e-06, p corrected for 2 keys × 8 transformations"
    assert text[1] == "key-based: p is exact over the random choice of the key, for any image"
    assert "there are no null images" in text[2]
    verdicts = [
        Verdict(
            "a",
            WATERMARKED,
            "k",
            1e-9,
            0.5,
            KEY_BASED,
            1,
            1,
            "",
            fpr,
            null_hits=n,
            null_images=1000,
            fpr_bound=bound,
        )
        for n, bound, fpr in ((0, 3e-3, 0.01), (2, 6.3e-3, 0.01), (0, 3e-3, 1e-6), (8, 1.4e-2, 0.01))
    ]
    text = evidence_text(verdicts[:2]).splitlines()
    assert text[0] == "level 0.01, p corrected for 1 key × 1 transformation"
    assert text[-1] == (
        "null images: at most 2 of 1,000 fit as well as what was found, "
        "a rate of at most 6.3e-03 at 95 % confidence, within the level"
    )
    assert evidence_text(verdicts[2:3]).endswith("which is as much as so many can say")
    assert evidence_text(verdicts[3:]).endswith("which is above the level")
    doubtful = [Verdict("a", INCONCLUSIVE, "k", 1e-9, 0.5, MODEL_BASED, 1, 1, fpr=1e-6)]
    assert "model-based: p holds for white noise only" in evidence_text(doubtful)


def test_names_of_keys_cannot_disturb_a_terminal():
    assert (
        cells(Verdict("a", WATERMARKED, "\x1b[31mred [bold]k", 1e-9, 0.5, KEY_BASED))[4] == "\\x1b[31mred [bold]k"
    )
    file = io.StringIO()
    name = ":skull:[red]a[/red]\\"
    print_table(verdict_table([Verdict(name, WATERMARKED, ":cat:", 1e-9, 0.5, KEY_BASED)]), file)
    assert name in file.getvalue()
    assert ":cat:" in file.getvalue()


def test_rows_are_printed_one_by_one_in_columns():
    file = io.StringIO()
    rows = Rows(file, ["short.png", "a longer name.png"], ["k"])
    found = Verdict("short.png", WATERMARKED, "k", 1e-9, 0.512, KEY_BASED, 1, 8)
    rows.print(found)
    assert len(file.getvalue().splitlines()) == 2
    rows.print(Verdict("a longer name.png", UNREADABLE, reason="not_found: no such file"))
    rows.print(
        Verdict("not known before, and far " + "too " * 20 + "long.png", NOT_DETECTED, "k", 0.5, -0.1, KEY_BASED)
    )
    heading, first, second, *folded = file.getvalue().splitlines()
    assert heading.split() == ["image", "verdict", "p", "ρ", "key", "notes"]
    for line, status in ((first, "watermarked"), (second, "unreadable"), (folded[0], "not_detected")):
        assert line.index(status) == heading.index("verdict")
    assert first.index("0.512") + 5 == heading.index("ρ") + 1
    assert second.index("not_found") == heading.index("notes")
    assert "".join(line[:17].strip() for line in folded).endswith("long.png")


def test_names_nobody_knows_beforehand_get_a_third_of_the_width():
    file = io.StringIO()
    rows = Rows(file, None, ["k"])
    rows.print(Verdict("a folder/with pictures/and names.png", NOT_DETECTED, "k", 0.5, -0.1, KEY_BASED))
    assert "a folder/with pictures/and names.png " in file.getvalue()


def test_a_tally_says_of_many_verdicts_what_their_table_would():
    fpr = 0.01
    nulls = {"null_hits": 2, "null_images": 1000, "fpr_bound": 6.3e-3}
    verdicts = [
        Verdict("a", UNREADABLE, reason="not_found: no such file"),
        Verdict("b", UNREADABLE, reason="not_found: no such file"),
        Verdict("c", INCONCLUSIVE, reason="flat: all pixels have nearly the same colour"),
        Verdict("d", NOT_DETECTED, "k", 0.4, 0.0, KEY_BASED, 2, 8, fpr=fpr, null_images=1000),
        Verdict(
            "e",
            WATERMARKED,
            "k",
            1e-9,
            0.5,
            KEY_BASED,
            2,
            8,
            fpr=fpr,
            **nulls | {"null_hits": 0, "fpr_bound": 3e-3},
        ),
        Verdict("f", WATERMARKED, "other", 1e-9, 0.5, KEY_BASED, 2, 8, fpr=fpr, **nulls),
        Verdict("g", INCONCLUSIVE, "z", 1e-9, 0.5, MODEL_BASED, 2, 1, fpr=fpr, reason="p is small, but: …"),
    ]
    tally = Tally()
    assert [tally.count(v) for v in verdicts * 3] == verdicts * 3
    assert tally.images == 21
    assert tally.evidence == evidence_text(verdicts)
    assert len(tally.examples) <= 4
    table = tally.table(3.0)
    counts = dict(zip(*([str(text).strip() for text in column.cells] for column in table.columns), strict=True))
    assert counts == {
        "watermarked": "6",
        "k": "3",
        "other": "3",
        "not_detected": "3",
        "inconclusive": "6",
        "unreadable": "6",
        "images": "21",
        "not tested": "9",
        "not_found": "6",
        "flat": "3",
        "time": "3.0 s, 7 images a second",
    }
    assert Tally().evidence == "nothing was tested"
    assert [duration(s) for s in (0.44, 59.4, 61, 3 * 3600 + 62.2)] == ["0.4 s", "59.4 s", "0:01:01", "3:01:02"]
