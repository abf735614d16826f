"""The tables in the README are made of the result files."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import decoder_inversion, readme
from benchmarks.kept import weights
from benchmarks.record import RESULTS


@pytest.fixture
def place(tmp_path):
    measured_on(weights("sapling"), tmp_path)
    return tmp_path


def measured_on(digest, place):
    result = json.loads((RESULTS / "decoder_inversion.json").read_text("utf-8"))
    result["settings"]["weights"] = digest
    (place / "decoder_inversion.json").write_text(json.dumps(result), "utf-8")


def run(place, *options):
    arguments = ["--document", str(place / "README.md"), "--results", str(place), *options]
    return CliRunner().invoke(readme.main, arguments, catch_exceptions=False)


def test_tables_are_written_between_their_markers_and_nowhere_else(place):
    file = place / "README.md"
    file.write_text(
        "# Title\n\n<!-- decoder_inversion -->\nold\n<!-- /decoder_inversion -->\n\n<!-- a remark -->\nThe end\n",
        "utf-8",
    )
    assert run(place, "--check").exit_code == 1
    assert "old" in file.read_text("utf-8")
    assert run(place).exit_code == 0
    result = json.loads((place / "decoder_inversion.json").read_text("utf-8"))
    table = f"<!-- decoder_inversion -->\n\n{decoder_inversion.readme_table(result)}\n\n<!-- /decoder_inversion -->"
    expected = f"# Title\n\n{table}\n\n<!-- a remark -->\nThe end\n"
    assert file.read_text("utf-8") == expected
    assert run(place, "--check").exit_code == 0
    result = json.loads((place / "decoder_inversion.json").read_text("utf-8"))
    result["runs"]["fp32 | anderson | 50"]["nmse"][12] = -12.3
    (place / "decoder_inversion.json").write_text(json.dumps(result), "utf-8")
    assert run(place, "--check").exit_code == 1
    assert run(place).exit_code == 0
    assert "−12.3 dB" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing\n", "no markers"),
        ("<!-- decoder_inversion -->\n", "<!-- decoder_inversion --> has no partner"),
        ("<!-- /decoder_inversion -->\n", "<!-- /decoder_inversion --> has no partner"),
        ("<!-- decoder_inversion -->\n<!-- /attacks -->\n", "<!-- decoder_inversion --> has no partner"),
        ("<!-- decoder_inversion -->\n<!-- /decoder_inversion -->\n<!-- decoder_inversion -->\n", "has no partner"),
        ("<!-- nonsense -->\n<!-- /nonsense -->\n", "no nonsense.json"),
        ("<!-- strange -->\n<!-- /strange -->\n", "benchmarks.strange"),
        ("<!-- attacks -->\n<!-- /attacks -->\n", "readme_table"),
    ],
)
def test_what_cannot_be_made_is_named_and_nothing_is_written(place, text, reason):
    (place / "strange.json").write_text("{}")
    (place / "attacks.json").write_text("{}")
    (place / "README.md").write_text(text, "utf-8")
    done = run(place)
    assert done.exit_code == 2
    assert reason in done.output
    assert (place / "README.md").read_text("utf-8") == text


def test_a_result_of_other_weights_than_those_that_are_shipped_says_so(place):
    file = place / "README.md"
    file.write_text("<!-- decoder_inversion -->\n<!-- /decoder_inversion -->\n", "utf-8")
    measured_on("0123456789abcdef", place)
    assert run(place).exit_code == 0
    told = "*Measured on other weights than those shipped: 0123456789abcdef.*\n\n|"
    assert told in file.read_text("utf-8")
    measured_on(weights("sapling"), place)
    assert run(place).exit_code == 0
    assert "*Measured" not in file.read_text("utf-8")


def test_with_new_weights_every_table_that_depends_on_them_says_so(monkeypatch):
    monkeypatch.setattr(readme, "weights", lambda model: "0123456789abcdef")
    markers = {match[2] for text in readme.DOCUMENTS for match in readme.MARKER.finditer(text.read_text("utf-8"))}
    silent = {marker for marker in markers if not readme.table(marker, RESULTS).startswith("*Measured on other")}
    assert silent == {"fuzz", "fuzz_guided"}  # which ask about the contents of files
