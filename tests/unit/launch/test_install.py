"""Setting up says in one line what it can't do."""

import subprocess
from pathlib import Path

import pytest

from terse.launch import install


def test_a_python_that_cannot_make_environments_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Debian without python3-venv."""

    def create(*_: object, **_options: object) -> None:
        raise subprocess.CalledProcessError(1, ["python3", "-m", "ensurepip"])

    monkeypatch.setattr(install, "_VENV", tmp_path / ".venv")
    monkeypatch.setattr("venv.create", create)
    assert install._install() == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert told.startswith("install: ")
    assert "ensurepip" in told
    assert told.endswith("apt install python3-venv\n")


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_another_python_is_one_line(
    version: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.version_info", version)
    assert install.main() == 1
    told = capsys.readouterr().err
    assert told == (
        f"install: Python {version[0]}.{version[1]} was given; 3.11 to 3.13 work: "
        "make run PYTHON=python3.12\n"
    )
