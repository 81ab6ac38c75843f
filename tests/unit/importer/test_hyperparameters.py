"""`terse import`: all keys of a flat file, ranges, combos, and keys that nobody knows."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from terse import cli
from terse.config import load
from terse.errors import TerseError
from terse.importer import import_file

# Every key that users of the original context compression have.
COMPRESSION: dict[str, Any] = {
    "exp_name": "BloomZ cmpr_test", "save_root": "/data/runs", "testing": False,
    "model_string": "bigscience/bloomz-560m", "multi_gpu": False, "model_parallel": False,
    "torch_dtype": "torch.float16", "seed": 123, "dataset": "openwebtext", "n_data_procs": 4,
    "max_val_loops": 20, "n_train_loops": 500, "checkpt_mod": 100, "n_epochs": 3,
    "batch_size": 16, "val_batch_size": 50, "lr": 5e-4, "l2": 1e-4, "n_grad_loops": 4,
    "grad_clip": 10, "patience": 5, "seq_len": 30, "cmp_len": 10, "seq_overlap": 2, "n_cmps": 1,
    "cmp_layer": "half", "proj_cmpr": True, "proj_hid_mult": 4, "sep_cmpr": True,
    "rmb_rask": True, "rmb_only": False, "csl_task": True, "csl_scale": 0.5, "train_embs": True,
    "train_lmhead": False, "kl_scale": 0.1, "gen_targs": False, "gen_ids": True,
}  # fmt: skip


def write(folder: Path, content: Any, name: str = "hyperparameters.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def loaded(folder: Path, content: dict[str, Any]) -> Any:
    """Return the typed configuration that the printed overlay makes."""
    return load(yaml.safe_load(import_file(write(folder, content)).text()))


def test_every_key_of_the_original_has_its_place(tmp_path: Path) -> None:
    overlay = import_file(write(tmp_path, COMPRESSION))
    assert overlay.unknown == {}
    workflow = load(yaml.safe_load(overlay.text()))
    run: Any = workflow.runs["bloomz-cmpr-test"]
    assert workflow.select.runs == ["bloomz-cmpr-test"]
    assert workflow.models["bloomz-560m"].hub == "bigscience/bloomz-560m"
    assert workflow.roots.results == "results"
    moved_roots = load(yaml.safe_load(import_file(write(tmp_path, COMPRESSION), roots=True).text()))
    assert moved_roots.roots.results == "/data/runs"
    assert workflow.n_data_procs == 4
    assert (run.base, run.corpus, run.torch_dtype) == ("bloomz-560m", "openwebtext", "float16")
    assert (run.max_steps, run.eval_interval, run.rmb_task) == (1500, 500, True)
    assert run.checkpoint_steps == list(range(0, 1501, 100))
    assert (run.lr_schedule, run.patience) == ("plateau", 5)
    moved = {
        "exp_name", "save_root", "testing", "model_string", "multi_gpu", "torch_dtype", "dataset",
        "n_data_procs", "checkpt_mod", "rmb_rask",
    }  # fmt: skip
    for key in COMPRESSION.keys() - moved:
        assert getattr(run, key) == COMPRESSION[key], key
    assert moved - {"testing", "torch_dtype"} | {"eval_windows"} == set(overlay.notes)
    assert run.eval_windows == 2000


def test_ranges_are_multiplied_and_combos_advance_together(tmp_path: Path) -> None:
    content = COMPRESSION | {
        "exp_name": "s", "lr": [1e-3, 1e-4], "combos": {"n_cmps": [1, 2, 4], "cmp_len": [9, 8, 7]},
    }  # fmt: skip
    runs = loaded(tmp_path, content).runs
    found = sorted((r.lr, r.n_cmps, r.cmp_len) for r in runs.values())
    expected = [(lr, c, k) for lr in (1e-4, 1e-3) for c, k in ((1, 9), (2, 8), (4, 7))]
    assert found == expected


def test_a_list_is_the_value_of_a_key_that_takes_lists(tmp_path: Path) -> None:
    content = {
        "exp_name": "f", "model_string": "me/lm", "dataset": "openwebtext", "mask": ["mlp", "rnn"],
        "forget_p": 0.1, "exploration_epochs": [0.75, 0.0], "n_train_loops": 50,
    }  # fmt: skip
    runs = loaded(tmp_path, content).runs.values()
    assert sorted(run.mask for run in runs) == ["mlp", "rnn"]
    assert all((r.exploration_epochs, r.max_steps) == ([0.75, 0.0], 100) for r in runs)


def test_combos_of_keys_that_go_elsewhere(tmp_path: Path) -> None:
    combos = {"patience": [2, 9], "dataset": ["wikitext", "me/My_Texts"]}
    combos["torch_dtype"] = ["torch.float32", "torch.bfloat16"]
    content = COMPRESSION | {"exp_name": "s", "combos": combos}
    assert "swept by combos; 5 outside" in import_file(write(tmp_path, content)).notes["patience"]
    found = {
        (r.patience, r.corpus, r.torch_dtype, r.lr_schedule)
        for r in loaded(tmp_path, content).runs.values()
    }
    assert found == {
        (2, "wikitext-103", "float32", "plateau"), (9, "my-texts", "bfloat16", "plateau"),
    }  # fmt: skip


def test_null_is_the_default(tmp_path: Path) -> None:
    content = {key: None for key in COMPRESSION if key not in ("exp_name", "testing")}
    kept = ("model_string", "dataset", "n_epochs", "n_train_loops", "seq_len", "cmp_len")
    content |= {key: COMPRESSION[key] for key in kept}
    run = loaded(tmp_path, {"exp_name": "x", **content}).runs["x"]
    assert (run.torch_dtype, run.lr_schedule, run.n_cmps) == ("float32", "cosine", 1)


def test_swept_models_are_defined_each(tmp_path: Path) -> None:
    content = COMPRESSION | {"exp_name": "m", "model_string": ["a/one", "b/Two-1B", "base"]}
    overlay = import_file(write(tmp_path, content))
    assert overlay.config["models"] == {"one": {"hub": "a/one"}, "two-1b": {"hub": "b/Two-1B"}}
    assert overlay.config["runs"]["m"]["sweep"] == {"base": ["one", "two-1b", "base"]}
    plain = loaded(tmp_path, COMPRESSION | {"model_string": "gpt2"})
    assert plain.models["gpt2"].hub == "gpt2"


def test_testing_takes_the_model_that_the_workflow_trains(tmp_path: Path) -> None:
    overlay = import_file(write(tmp_path, COMPRESSION | {"testing": True}))
    run = overlay.config["runs"]["bloomz-cmpr-test"]
    assert (run["base"], run["corpus"]) == ("base", "python-docs")
    assert "models" not in overlay.config
    swept = {"model_string": ["a/one", "b/two"], "dataset": ["c/x", "d/y"], "lr": [1e-3, 1e-4]}
    overlay = import_file(write(tmp_path, COMPRESSION | swept | {"testing": True}))
    run = overlay.config["runs"]["bloomz-cmpr-test"]
    assert (run["base"], run["corpus"], run["sweep"]) == (
        "base",
        "python-docs",
        {"lr": swept["lr"]},
    )


@pytest.mark.parametrize(
    ("dataset", "corpus", "defined"),
    [
        ("wikitext", "wikitext-103", {}),
        ("glue", "glue-mrpc-pairs", {}),
        ("tinystories", "tinystories", {}),
        ("me/My_Texts", "my-texts", {"my-texts": {"source": "hub", "path": "me/My_Texts"}}),
    ],
)
def test_datasets(dataset: str, corpus: str, defined: dict, tmp_path: Path) -> None:
    overlay = import_file(write(tmp_path, COMPRESSION | {"dataset": dataset}))
    assert overlay.config["runs"]["bloomz-cmpr-test"]["corpus"] == corpus
    assert overlay.config.get("corpora", {}) == defined
    assert corpus in loaded(tmp_path, COMPRESSION | {"dataset": dataset}).corpora


def test_an_unknown_key_is_named_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, COMPRESSION | {"cmpr_len": 3, "zzz": 1})
    assert cli.main(["import", str(path)]) == 0
    printed = capsys.readouterr()
    assert (
        "cmpr_len is not imported: unknown key 'cmpr_len'; did you mean 'cmp_len'?" in printed.err
    )
    assert "zzz is not imported: unknown key 'zzz'" in printed.err
    assert "# zzz: NOT IMPORTED" in printed.out
    assert "cmpr_len" not in yaml.safe_load(printed.out)["runs"]["bloomz-cmpr-test"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1}, "its keys fit none of the five systems"),
        ([1], "must be a map of keys"),
        (COMPRESSION | {"combos": [1]}, "combos: must be a map of keys with lists"),
        (COMPRESSION | {"cmp_len": -1}, "cmp_len: should be greater than 0"),
        (COMPRESSION | {"cmp_len": [5, 40]}, "leaves nothing to predict after 40"),
        (COMPRESSION | {"model_string": ["a/one", "b/one"]}, "two models would be called 'one'"),
        (COMPRESSION | {"exp_name": "///"}, "contains nothing that could be a name"),
        ({k: v for k, v in COMPRESSION.items() if k != "n_epochs"}, "needs n_epochs"),
    ],
)
def test_what_makes_no_valid_run_is_one_sentence(
    content: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["import", str(write(tmp_path, content))]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_file_of_no_format_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(TerseError, match=r"cannot import a \.toml file; allowed: \.json, \.py"):
        import_file(write(tmp_path, {}, "x.toml"))
    with pytest.raises(TerseError, match="no such file"):
        import_file(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(TerseError, match="invalid JSON"):
        import_file(tmp_path / "broken.json")


def test_names_of_many_ranges_stay_short_apart_and_legible(tmp_path: Path) -> None:
    content = COMPRESSION | {
        "lr": [0.00001, 0.00002], "cmp_layer": ["half", -1], "seed": [123456789, 123456780],
        "dataset": ["openwebtext", "wikitext"],
    }  # fmt: skip
    runs = loaded(tmp_path, content).runs
    assert len(runs) == 16
    assert max(map(len, runs)) <= 40
    for name, run in runs.items():
        assert name.startswith("bloo")
        assert ("-half-" in name) == (run.cmp_layer == "half")
