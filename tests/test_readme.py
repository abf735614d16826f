"""The README's commands and programs run in one empty directory; its numbers are those of the results."""

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import readme
from watermark.cli import main
from watermark.demo import photographs

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a hub model on a GPU is replaced by where there is neither.
HERE = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": str(ROOT / "data" / "sapling"),
    "float16": "float32",
    '"cuda"': '"cpu"',
    "(1, 4, 64, 64)": "(1, 4, 32, 32)",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory with the files that commands take."""
    path = tmp_path_factory.mktemp("readme")
    (photo,) = photographs(1, (128, 128))
    photo.save(path / "photo.png")
    mask = Image.new("L", photo.size)
    mask.paste(255, (32, 32, 96, 96))
    mask.save(path / "mask.png")
    return path


def test_commands_run(work, tmp_path, monkeypatch):
    """In one process, as each would else load PyTorch; their words are those that a shell makes of the line."""
    monkeypatch.chdir(work)
    monkeypatch.setenv("TREERING_STORE", str(tmp_path / "keys.db"))
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    lines = [line for line in lines if line.startswith("treering ") and not line.startswith("treering demo")]
    assert len(lines) >= 6
    for line in lines:
        words = subprocess.run(["bash", "-c", rf"printf '%s\0' {line}"], capture_output=True, text=True, check=True)
        name, *arguments, rest = words.stdout.split("\0")
        assert (name, rest) == ("treering", "")
        assert main(arguments) == 0, line


def test_programs_run(work, monkeypatch):
    monkeypatch.chdir(work)
    programs = blocks("python")
    assert len(programs) >= 2
    for program in programs:
        here = program
        for hub, local in HERE.items():
            here = here.replace(hub, local)
        exec(compile(here, "README.md", "exec"), {})  # noqa: S102


def anchors(document):
    """What links into a document may name: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links(document):
    links = re.findall(r"\]\(([^):#]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8"))
    assert any(anchor for _, anchor in links)
    for file, anchor in links:
        target = document.parent / file if file else document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), (file, anchor)


def test_make_targets_and_files_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    check_links(ROOT / "README.md")


def test_tables_are_those_of_the_results():
    """Every table of a benchmark, in the README and in that of the benchmarks, is made of its result file."""
    done = CliRunner().invoke(readme.main, ["--check"])
    assert done.exit_code == 0, done.output


def test_every_result_is_shown():
    shown = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "benchmarks" / "results").glob("*.png"):
        if file.stem != "demo":
            assert f"(results/{file.name})" in shown, file
    check_links(ROOT / "benchmarks" / "README.md")
