import os
import stat

import pytest

from watermark.files import appearing


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("private", [True, False])
def test_a_file_appears_when_all_went_well_and_not_before(tmp_path, replace, private):
    file = tmp_path / "a.txt"
    with appearing(file, replace=replace, private=private) as part:
        part.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert listing(tmp_path) == ["a.txt"]
    if private and os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_error_leaves_what_there_was(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(TypeError), appearing(file) as part:
        part.write_text("half", errors=0)
    assert file.read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_others_are_replaced_only_where_they_may_be(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    file.chmod(0o644)
    with pytest.raises(FileExistsError, match="exists by now"), appearing(file, replace=False) as part:
        part.write_text("new")
    assert file.read_text() == "old"
    with appearing(file, private=True) as part:
        part.write_text("new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert listing(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("target", ["precious.txt", "missing.txt", "link.txt"])
def test_a_link_is_replaced_and_what_it_points_to_is_not(tmp_path, target):
    (tmp_path / "precious.txt").write_text("precious")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    with pytest.raises(FileExistsError), appearing(link, replace=False) as part:
        part.write_text("new")
    assert link.is_symlink()
    with appearing(link) as part:
        part.write_text("new")
    assert not link.is_symlink()
    assert link.read_text() == "new"
    assert (tmp_path / "precious.txt").read_text() == "precious"
    assert listing(tmp_path) == ["link.txt", "precious.txt"]


def test_without_hard_links_a_failure_reserves_no_name(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / "a.txt"
    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(PermissionError), appearing(file, replace=False) as part:
        part.write_text("new")
    assert listing(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        try:
            with appearing(file, replace=False) as part:
                part.write_text("new")
        except FileExistsError:
            pass
    assert file.read_text() == "new"
    assert listing(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append((os.fstat(fd).st_size, listing(tmp_path))) or sync(fd))
    with appearing(tmp_path / "a") as part:
        part.write_text("whole")
    ((size, (name,)),) = seen
    assert size == 5
    assert name != "a"
    assert listing(tmp_path) == ["a"]
