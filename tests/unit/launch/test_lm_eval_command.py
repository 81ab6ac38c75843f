"""lm-eval's own command knows the methods' models, by names that stand in `--model`."""

import tomllib
from pathlib import Path

import pytest
from lm_eval.api.registry import get_model

from terse.config.methods import methods
from terse.corpora.documents import write_documents
from terse.errors import TerseError
from terse.evaluation.lm_eval.corpus_tasks import make_corpus_tasks
from terse.launch import lm_eval_command
from terse.methods.hierarchical.storage import save_model
from terse.settings.corpora import Corpus
from tiny_asking import ask
from tiny_hierarchical import model

ROOT = Path(__file__).parents[3]


def test_every_adapter_is_a_registered_model() -> None:
    lm_eval_command.register_models()
    lm_eval_command.register_models()  # nothing is registered twice
    found = {name: get_model(name).__name__ for spec in methods().values()
             for name in spec.lm_eval_models}  # fmt: skip
    assert found == {
        "hier_ae": "HierarchicalAELM", "compression": "CompressedLM", "forgetting": "ForgetfulLM",
    }  # fmt: skip
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["lm_eval"] == scripts["lm-eval"] == "terse.launch.lm_eval_command:main"


def test_model_args_are_those_of_the_command_line(tmp_path: Path) -> None:
    lm_eval_command.register_models()
    saved = model(seed=5)
    save_model(saved, tmp_path)
    kind = get_model("hier_ae")
    lm = kind.create_from_arg_obj(
        {"pretrained": str(tmp_path)}, {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    )
    expected = ask(kind(saved, batch_size=4), "loglikelihood", ("", "a text"))
    assert ask(lm, "loglikelihood", ("", "a text"))[0][0] == pytest.approx(expected[0][0], rel=1e-5)
    with pytest.raises(TerseError, match="batch_size 'auto': give a number"):
        kind(saved, batch_size="auto")


@pytest.mark.slow
def test_the_command_scores_a_trained_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    save_model(model(seed=5), tmp_path / "model")
    corpus = Corpus(source="python-docs", max_dataset_size=20, validation_fraction=0.5)
    write_documents(corpus, tmp_path / "d.parquet")
    make_corpus_tasks(tmp_path / "d.parquet", tmp_path / "tasks")
    words = [
        "lm_eval", "--model", "hier_ae", "--model_args", f"pretrained={tmp_path / 'model'}",
        "--include_path", str(tmp_path / "tasks"), "--tasks", "corpus_bytes", "--limit", "2",
        "--device", "cpu",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    assert lm_eval_command.main() == 0
    assert "bits_per_byte" in capsys.readouterr().out
