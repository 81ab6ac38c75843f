"""Where a model from outside comes from: what is allowed, and which folder it becomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from terse.config import load
from terse.config.origins import (
    adapter_base,
    adapter_folder,
    gguf_file,
    is_adapter,
    model_folder,
    of_kind,
)
from terse.config.reach import within_reach
from terse.errors import TerseError

PACKAGE = {"package": "llm-tiny==1.0", "gguf": "llm_tiny/tiny.gguf"}


def config(**models: Any):
    return load({"models": models})


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({**PACKAGE, "package": "llm-tiny"}, "'llm-tiny' is not name==version"),
        ({**PACKAGE, "package": "--index-url==x"}, "is not name==version"),
        ({"package": "llm-tiny==1.0"}, "package needs gguf"),
        ({**PACKAGE, "gguf": "../tiny.gguf"}, "is not the path of a .gguf file inside"),
        ({**PACKAGE, "gguf": "/etc/tiny.gguf"}, "is not the path of a .gguf file inside"),
        ({"hub": "a/b", "gguf": "model.safetensors"}, "file inside the repository"),
        ({"hub": "a/b", "gguf": "m-00001-of-00002.gguf"}, "join them into one first"),
        ({"path": "/m/x.gguf", "gguf": "x.gguf"}, "gguf does not go with path"),
        ({"hub": "a/b", "sha256": "0" * 64}, "sha256 is for a GGUF file"),
        ({**PACKAGE, "sha256": "abc"}, "sha256"),
        ({**PACKAGE, "base": "other"}, "base does not go with package"),
        ({"hub": "a/b", "gguf": "x.gguf", "adapter": "merged"}, "does not go with a GGUF file"),
        ({"hub": "a/b", "adapter": "separate"}, "needs base"),
        ({"path": "/m", "base": "other", "adapter": "ignored"}, "but adapter: ignored is given"),
        ({"path": "/m", "base": "othr"}, "did you mean 'other'"),
        ({**PACKAGE, "hub": "a/b"}, "exactly one of run, hub, path, package"),
    ],
)
def test_contradictions_are_said_in_one_line(model, words):
    with pytest.raises(TerseError, match=words) as raised:
        config(x=model, other={"hub": "a/other"})
    assert "models.x" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_each_origin_becomes_a_folder(tmp_path):
    (tmp_path / "m.gguf").touch()
    settings = config(
        plain={"path": str(tmp_path)}, hub={"hub": "a/b"}, package=PACKAGE,
        file={"path": str(tmp_path / "m.gguf")}, tuned={"hub": "a/tuned", "base": "hub"},
    )  # fmt: skip
    assert model_folder(settings, "plain") == str(tmp_path)
    for name in ("hub", "package", "file", "tuned"):
        assert model_folder(settings, name) == f"cache/models/{name}"
    assert gguf_file(settings, "file") == str(tmp_path / "m.gguf")
    assert gguf_file(settings, "package") == "cache/gguf/package/model.gguf"
    assert adapter_base(settings, "tuned") == "cache/models/hub"
    made_by = {kind: of_kind(settings, kind) for kind in ("hub", "gguf", "fetched-gguf")}
    assert made_by == {"hub": ["hub"], "gguf": ["package", "file"], "fetched-gguf": ["package"]}
    with pytest.raises(TerseError, match=r"models\.gone\.path: there is no file"):
        gguf_file(config(gone={"path": str(tmp_path / "gone.gguf")}), "gone")


def adapter_in(folder: Path, base: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def test_an_adapter_names_its_base_or_the_config_does(tmp_path):
    (tmp_path / "base").mkdir()
    here = adapter_in(tmp_path / "here", str(tmp_path / "base"))
    away = adapter_in(tmp_path / "away", "meta/base-7b")
    settings = config(
        here={"path": str(here)}, away={"path": str(away)},
        given={"path": str(away), "base": "here"}, loop={"path": str(away), "base": "back"},
        back={"path": str(here), "base": "loop"},
    )  # fmt: skip
    assert is_adapter(settings, "here")
    assert adapter_base(settings, "here") == str(tmp_path / "base")
    assert adapter_base(settings, "given") == "cache/models/here"
    with pytest.raises(TerseError, match="is for 'meta/base-7b', which is not a folder here: add"):
        adapter_base(settings, "away")
    with pytest.raises(TerseError, match="a cycle: loop -> back -> loop"):
        adapter_base(settings, "loop")


def test_a_path_with_braces_is_named_with_its_model(tmp_path):
    odd = tmp_path / "of {x}"
    odd.mkdir()
    (odd / "m.gguf").touch()
    adapter, away = adapter_in(odd / "adapter", "b"), adapter_in(tmp_path / "away", str(odd))
    paths = {"plain": odd, "gguf": odd / "m.gguf", "tuned": adapter, "away": away}
    models: Any = {name: {"path": str(path)} for name, path in paths.items()}
    settings = config(**models)
    looked_up = {
        "plain": model_folder, "gguf": gguf_file, "tuned": adapter_folder, "away": adapter_base,
    }  # fmt: skip
    for name, look_up in looked_up.items():
        with pytest.raises(TerseError, match=rf"models\.{name}: the path .*of {{x}}.* has braces"):
            look_up(settings, name)


def test_a_path_that_is_not_there_is_named_with_its_model(tmp_path):
    gone = {"path": str(tmp_path / "my-llama")}
    with pytest.raises(TerseError, match=r"models\.x\.path: there is no folder .*my-llama$"):
        model_folder(config(x=gone), "x")
    made_here = {"path": "results/runs/base/model"}  # by another part of the same run
    assert model_folder(config(x=made_here), "x") == "results/runs/base/model"


def test_a_model_and_an_adapter_at_once_must_be_told_apart(tmp_path):
    folder = adapter_in(tmp_path / "both", "meta/base-7b")
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    model = {"path": str(folder)}
    with pytest.raises(TerseError, match="adapter: merged or adapter: ignored"):
        model_folder(config(x=model), "x")
    assert model_folder(config(x={**model, "adapter": "ignored"}), "x") == str(folder)
    merged = config(x={**model, "adapter": "merged"})
    assert model_folder(merged, "x") == "cache/models/x"
    assert adapter_base(merged, "x") == str(folder)


def test_what_an_unreachable_model_takes_along() -> None:
    run = {"method": "causal-lm", "corpus": "c", "max_steps": 1, "ctx_len": 32}
    raw = {
        "corpora": {"c": {"source": "python-docs"}},
        "tokenizers": {"t": {"corpus": "c", "vocab_size": 300}},
        "runs": {"own": {**run, "tokenizer": "t"}, "tuned": {**run, "base": "far"},
                 "again": {**run, "base": "tuned"}},
        "models": {"far": PACKAGE, "lora": {"hub": "a/b", "base": "far"}, "own": {"run": "own"},
                   "again": {"run": "again"}},
        "activations": {"corpus": "c", "ctx_len": 32},
        "select": {"runs": ["own", "tuned", "again"], "ids": ["far", "lora", "own", "again"]},
    }  # fmt: skip
    whole = within_reach(load(raw))
    assert whole.select.ids == raw["select"]["ids"]
    left = within_reach(load({**raw, "unreachable": {"far": "no network"}}))
    assert left.selected_runs() == ["own"]
    assert left.select.ids == ["own"]


def test_models_of_the_same_source_share_one_folder():
    other = {**PACKAGE, "gguf": "llm_tiny/other.gguf"}
    settings = config(
        first=PACKAGE, other=other, drawn={**PACKAGE, "random_weights": True, "family": "first"},
        hub={"hub": "a/b"}, half={"hub": "a/b", "dtype": "float16"},
        later={"hub": "a/b", "revision": "v2"},
    )  # fmt: skip
    folders = {name: model_folder(settings, name) for name in settings.models}
    assert folders["drawn"] == folders["first"] == "cache/models/first"
    assert folders["half"] == folders["hub"] == "cache/models/hub"
    assert folders["other"] == "cache/models/other"
    assert folders["later"] == "cache/models/later"
    assert settings.tokenizer_of_model("drawn") == "first"


def test_what_cannot_be_fetched_takes_all_models_of_its_source_along():
    models = {"first": PACKAGE, "drawn": {**PACKAGE, "random_weights": True}, "far": {"hub": "a/b"}}
    raw = {
        "corpora": {"docs": {"source": "python-docs"}}, "activations": {"corpus": "docs"},
        "models": models, "select": {"ids": list(models)},
    }  # fmt: skip
    left = within_reach(load({**raw, "unreachable": {"first": "no network"}}))
    assert left.select.ids == ["far"]
