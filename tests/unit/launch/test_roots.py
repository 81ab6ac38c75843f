"""The three roots are where the config puts them, and nothing is moved or lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from terse.errors import TerseError
from terse.launch.roots import link_roots

OWN = {"results": "results", "cache": "cache", "state": "state"}


def test_roots_at_home_need_no_link(tmp_path: Path) -> None:
    link_roots(OWN, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "cache").mkdir()
    link_roots({**OWN, "results": str(tmp_path / "results")}, tmp_path)
    assert not (tmp_path / "cache").is_symlink()
    assert not (tmp_path / "results").exists()


def test_a_root_elsewhere_becomes_a_link_and_what_is_written_lies_there(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch" / "me"
    home.mkdir()
    link_roots({**OWN, "cache": str(scratch)}, home)
    (home / "cache" / "a").write_text("x")
    assert (scratch / "a").read_text() == "x"
    assert [item.name for item in home.iterdir()] == ["cache"]
    inode = (home / "cache").lstat().st_ino
    link_roots({**OWN, "cache": str(scratch)}, home)
    assert (home / "cache").lstat().st_ino == inode  # not made again


def test_an_empty_folder_gives_way(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    link_roots({"cache": str(tmp_path / "far")}, tmp_path)
    assert (tmp_path / "cache").readlink() == tmp_path / "far"


def test_a_root_moves_with_its_config(tmp_path: Path) -> None:
    link_roots({"cache": str(tmp_path / "one")}, tmp_path)
    (tmp_path / "cache" / "a").write_text("x")
    link_roots({"cache": str(tmp_path / "two")}, tmp_path)
    assert (tmp_path / "cache").readlink() == tmp_path / "two"
    assert (tmp_path / "one" / "a").read_text() == "x"


def test_a_link_whose_target_is_gone_is_mended(tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "gone")
    link_roots({"cache": str(tmp_path / "gone")}, tmp_path)
    assert (tmp_path / "cache").is_dir()


def test_the_default_leaves_an_earlier_link_alone(tmp_path: Path) -> None:
    link_roots({"cache": str(tmp_path / "far")}, tmp_path)
    link_roots(OWN, tmp_path)
    assert (tmp_path / "cache").readlink() == tmp_path / "far"


def test_a_folder_with_content_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine").write_text("x")
    with pytest.raises(TerseError, match=r"roots\.cache: the folder cache/ here has content; move"):
        link_roots({"cache": str(tmp_path / "far")}, tmp_path)
    assert (tmp_path / "cache" / "mine").read_text() == "x"
    assert not (tmp_path / "cache").is_symlink()


def test_a_place_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TerseError, match=r"roots\.state: .*/file/state: Not a directory"):
        link_roots({"state": str(tmp_path / "file" / "state")}, tmp_path)


def test_variables_and_the_home_folder_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_OF_TEST", str(tmp_path / "scratch"))
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    link_roots({"cache": "$SCRATCH_OF_TEST/c", "state": "~/s"}, tmp_path)
    assert (tmp_path / "cache").readlink() == tmp_path / "scratch" / "c"
    assert (tmp_path / "state").readlink() == tmp_path / "me" / "s"


def test_another_job_that_is_faster_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, target, remove = tmp_path / "cache", tmp_path / "far", Path.rmdir
    link.mkdir()

    def remove_after_the_other_job(path: Path) -> None:
        remove(path)
        path.symlink_to(target)
        remove(path)

    monkeypatch.setattr(Path, "rmdir", remove_after_the_other_job)
    link_roots({"cache": str(target)}, tmp_path)
    assert link.readlink() == target


# Links the roots once it is told to, so that all processes do so at once.
LINKER = """
import sys
from pathlib import Path
from terse.launch.roots import link_roots
folder, target = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
link_roots({"results": target + "/r", "cache": target + "/c", "state": target + "/s"}, folder)
"""


@pytest.mark.parametrize("before", ["nothing", "folders", "links"])
def test_several_jobs_link_at_once(tmp_path: Path, before: str) -> None:
    for name in OWN if before != "nothing" else ():
        if before == "folders":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).symlink_to(tmp_path / "old")
    command = [sys.executable, "-c", LINKER, str(tmp_path), str(tmp_path / "far")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    jobs = [subprocess.Popen(command, text=True, **pipes) for _ in range(6)]
    for process in jobs:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in jobs:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in jobs:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    targets = {item.name: item.readlink().name for item in tmp_path.iterdir() if item.is_symlink()}
    assert targets == {"results": "r", "cache": "c", "state": "s"}
    assert {item.name for item in tmp_path.iterdir()} == {*OWN, "far"}


def test_a_variable_that_is_not_set_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCRATCH_OF_TEST", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TerseError, match=r"roots\.cache: \$SCRATCH_OF_TEST/c: .*variable"):
        link_roots({"cache": "$SCRATCH_OF_TEST/c"}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(TerseError, match=r"roots\.cache: .*file"):
        link_roots({"cache": str(tmp_path / "far")}, tmp_path)
    assert (tmp_path / "cache").read_text() == "mine"
