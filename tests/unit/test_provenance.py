"""A record says where a result comes from, truly."""

import os
import subprocess
from pathlib import Path

import pytest

from terse.provenance import digest_file, digest_json, git_state, record, versions


def git(folder: Path, *words: str) -> str:
    """Run git in a folder and return what it prints."""
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_git_state_of_a_clean_and_a_changed_checkout(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_state(repository) == {"commit": commit, "dirty": False}
    (repository / "code.py").write_text("x = 2\n")
    assert git_state(repository) == {"commit": commit, "dirty": True}
    git(repository, "commit", "--quiet", "-am", "second")
    assert git_state(repository) == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
    (repository / "untracked.py").write_text("")
    assert git_state(repository)["dirty"] is True


def test_git_state_where_there_is_no_repository_or_no_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {"commit": None, "dirty": None}
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    assert git_state(tmp_path / "plain") == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path / "plain") == unknown


def test_git_state_before_the_first_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) == {"commit": None, "dirty": False}


def make_folder(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    return folder


def test_a_digest_follows_names_and_bytes_not_dates(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "one")
    first = digest_file(folder)
    assert digest_file(make_folder(tmp_path / "elsewhere")) == first
    os.utime(folder / "a", (1, 1))
    (folder / ".snakemake_timestamp").write_text("now")
    assert digest_file(folder) == first
    (folder / "a").rename(folder / "c")
    renamed = digest_file(folder)
    (folder / "c").rename(folder / "a")
    (folder / "a").write_text("3")
    changed = digest_file(folder)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").rename(folder / "b")
    moved = digest_file(folder)
    assert len({first, renamed, changed, moved}) == 4


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert digest_file(path) == known
    os.utime(path, (1, 1))
    assert digest_file(path) == known


def test_the_digest_of_json_knows_no_order_of_keys() -> None:
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": "1", "b": [1, 2]}, {"a": 1}]
    assert len({digest_json(value) for value in [{"a": 1, "b": [1, 2]}, *others]}) == 4


def test_versions_are_those_of_the_installed_packages() -> None:
    import platform

    import torch

    found = versions(["torch", "no-such-package-at-all"])
    assert found == {"python": platform.python_version(), "torch": torch.__version__}


def test_a_record_says_all() -> None:
    found = record(
        settings={"lr": 1e-3, "seed": 7}, inputs={"tokens": "d1"}, device="cpu",
        n_documents=3,
    )  # fmt: skip
    assert found.keys() == {
        "settings", "seed", "git", "versions", "device", "inputs", "n_documents",
    }  # fmt: skip
    assert found["settings"] == {"lr": 1e-3, "seed": 7}
    assert found["seed"] == 7
    assert found["git"] == git_state(Path(__file__).parent)  # the checkout of this code
    assert len(found["git"]["commit"]) == 40
    assert {"terse", "torch", "transformers", "python"} <= found["versions"].keys()
    assert found["device"] == "cpu"
    assert found["inputs"] == {"tokens": "d1"}
    assert found["n_documents"] == 3
