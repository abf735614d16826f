"""What people read below and in a table of verdicts."""

from watermark.report import evidence_text, number_text, verdict_table
from watermark.verdict import (
    INCONCLUSIVE,
    KEY_BASED,
    MODEL_BASED,
    NOT_DETECTED,
    UNREADABLE,
    WATERMARKED,
    Verdict,
)


def cells(verdict):
    table = verdict_table([verdict])
    return [next(iter(column.cells)) for column in table.columns]


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


def test_what_p_rests_on():
    assert evidence_text([Verdict("a", UNREADABLE, reason="x")]) == "nothing was tested"
    text = evidence_text([Verdict("a", NOT_DETECTED, "k", 0.5, 0.0, KEY_BASED, 2, 8, fpr=1e-6)]).splitlines()
    assert text[0] == "level 1e-06, p corrected for 2 keys × 8 transformations"
    assert text[1] == "key-based: p is exact over the secret choice of the key, for any image"
    assert text[2].startswith("no null images")
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
        for n, bound, fpr in ((0, 3e-3, 0.01), (2, 6.3e-3, 0.01), (0, 3e-3, 1e-6))
    ]
    text = evidence_text(verdicts[:2]).splitlines()
    assert text[0] == "level 0.01, p corrected for 1 key × 1 transformation"
    assert text[-1] == (
        "null images: at most 2 of 1,000 fit as well as what was found, "
        "a rate of at most 6.3e-03 at 95 % confidence, within the level"
    )
    assert evidence_text(verdicts[2:]).endswith("which is as much as so many can say")
    doubtful = [Verdict("a", INCONCLUSIVE, "k", 1e-9, 0.5, MODEL_BASED, 1, 1, fpr=1e-6)]
    assert "model-based: p holds for white noise only" in evidence_text(doubtful)


def test_names_of_keys_cannot_disturb_a_terminal():
    assert (
        cells(Verdict("a", WATERMARKED, "\x1b[31mred [bold]k", 1e-9, 0.5, KEY_BASED))[4] == "\\x1b[31mred \\[bold]k"
    )
