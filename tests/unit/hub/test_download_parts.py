"""A GGUF file or a PEFT adapter of a repository of the hub: fetched alone, whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from script_chain import script
from terse.errors import TerseError

REPO = "someone/parts"
GGUF = b"GGUF" + bytes(range(256)) * 99
FILES = {
    "README.md": b"read me",
    "config.json": b"{}",
    "quantised/tiny.Q8_0.gguf": GGUF,
    "quantised/tiny.Q4_1.gguf": GGUF[:500],
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": bytes(range(256)),
    "optimizer.pt": b"state",
    "tokenizer.json": b"{}",
}


def file_code(target: Path, name: str = "quantised/tiny.Q8_0.gguf") -> str:
    return (
        "import json\nfrom pathlib import Path\nfrom terse.hub.download import download_file\n"
        f"print(json.dumps(download_file({REPO!r}, 'main', {name!r}, Path({str(target)!r}))))"
    )


def adapter_code(folder: Path, options: str = ", adapter=True") -> str:
    return (
        "from pathlib import Path\nfrom terse.hub.download import download_model\n"
        f"print(download_model({REPO!r}, 'main', Path({str(folder)!r}){options})['commit'])"
    )


def left(folder: Path) -> list[str]:
    """What is there, except what the clients keep."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != "")


def test_one_file_is_fetched_and_no_other(tmp_path, hub_server, run_python):
    commit = hub_server.add("models", REPO, FILES)
    target = tmp_path / "cache" / "x" / "model.gguf"
    about = json.loads(run_python(file_code(target), hub_server.url))
    assert target.read_bytes() == GGUF
    assert about["commit"] == commit
    assert about["file"] == "quantised/tiny.Q8_0.gguf"
    assert left(tmp_path / "cache") == ["model.gguf"]
    assert not hub_server.asked_for("quantised/tiny.Q4_1.gguf")
    assert hub_server.unknown == []


def test_a_file_that_is_not_there_or_damaged_leaves_nothing(tmp_path, hub_server, run_python):
    hub_server.add("models", REPO, FILES)
    target = tmp_path / "cache" / "x" / "model.gguf"
    said = run_python(file_code(target, "quantised/tiny.Q8_1.gguf"), hub_server.url)
    assert "did you mean 'quantised/tiny.Q8_0.gguf'" in said
    hub_server.damage("quantised/tiny.Q8_0.gguf")
    said = run_python(file_code(target), hub_server.url)
    assert said.startswith("TerseError: quantised/tiny.Q8_0.gguf of model someone/parts arrived")
    assert left(tmp_path / "cache") == []


def test_a_file_without_a_network_is_one_line(tmp_path, closed_port, run_python):
    target = tmp_path / "cache" / "x" / "model.gguf"
    said = run_python(file_code(target), f"http://127.0.0.1:{closed_port}")
    assert said.startswith("TerseError: cannot reach the hub at ")
    assert "\n" not in said
    assert not target.exists()


def test_a_file_of_another_digest_is_not_kept(tmp_path, monkeypatch):
    made = script("download_gguf")
    target = tmp_path / "x" / "model.gguf"

    def fetched(hub: str, revision: str, name: str, path: Path) -> dict[str, str]:
        path.parent.mkdir()
        path.write_bytes(GGUF)
        return {"hub_id": hub, "file": name}

    monkeypatch.setattr(made, "download_file", fetched)
    source = {"hub": REPO, "revision": "main", "gguf": "tiny.gguf"}
    options = {"name": "x", "gguf": target, "source_path": tmp_path / "source.json"}
    with pytest.raises(TerseError, match="it is not the file that sha256 names"):
        made.download_gguf(source=source | {"sha256": "0" * 64}, **options)
    assert not target.exists()
    assert not (tmp_path / "source.json").exists()
    target.parent.rmdir()
    digest = hashlib.sha256(GGUF).hexdigest()
    made.download_gguf(source=source | {"sha256": digest}, **options)
    assert json.loads((tmp_path / "source.json").read_text())["sha256"] == digest


def test_an_adapter_is_fetched_without_the_rest(tmp_path, hub_server, run_python):
    commit = hub_server.add("models", REPO, FILES)
    assert run_python(adapter_code(tmp_path / "a"), hub_server.url) == commit
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "download.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names


def test_an_adapter_that_is_none_and_a_model_that_is_one_say_so(tmp_path, hub_server, run_python):
    plain = {name: data for name, data in FILES.items() if not name.startswith("adapter")}
    hub_server.add("models", REPO, FILES)
    said = run_python(adapter_code(tmp_path / "m", ""), hub_server.url)
    assert said.startswith(f"TerseError: model {REPO} is a PEFT adapter: set base to the name")
    hub_server.add("models", REPO, plain)
    said = run_python(adapter_code(tmp_path / "a"), hub_server.url)
    assert said.startswith(f"TerseError: model {REPO} has no PEFT adapter (adapter_config.json")
    assert not (tmp_path / "a").exists()
