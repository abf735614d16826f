import json
from functools import partial

from PIL import Image

from watermark import demo
from watermark.cli import main
from watermark.demo import write


def test_a_link_in_the_folder_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "other.txt").write_text("precious")
    (tmp_path / "photo-0.png").symlink_to("other.txt")
    write(Image.new("RGB", (8, 8)), tmp_path / "photo-0.png")
    assert (tmp_path / "other.txt").read_text() == "precious"
    assert Image.open(tmp_path / "photo-0.png").size == (8, 8)


def test_demo_finds_exactly_the_marked_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "generate", partial(demo.generate, steps=20))  # of 50
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    for line in (
        "marked: 8 of 8 found",
        "marked, then JPEG at quality 75: 8 of 8 found",
        "unmarked, same prompts and seeds: 0 of 8 found",
        "photographs: 0 of 8 found",
    ):
        assert line in out
    with Image.open(tmp_path / "demo" / "demo.png") as figure:
        assert min(figure.size) > 800
    files = [str(f) for f in sorted((tmp_path / "demo").glob("marked-*.png"))]
    assert len(files) == 8
    assert main(["verify", files[0], "--key", "demo", "--store", str(tmp_path / "demo" / "keys.db"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "watermarked"
