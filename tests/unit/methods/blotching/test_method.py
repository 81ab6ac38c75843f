"""Training, resuming, scoring and the report of the method `blotching`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from terse.corpora.arithmetic.characters import EOS, NULL, PAD, decode, encode
from terse.corpora.arithmetic.expressions import read
from terse.corpora.documents import write_documents
from terse.corpora.token_store import TokenStore
from terse.corpora.tokenizers import load_tokenizer, train_bpe
from terse.corpora.tokens import tokenize_documents
from terse.errors import TerseError
from terse.evaluation.proportions import wilson
from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.importer import import_file
from terse.machine.signals import Stopped, StopSignal
from terse.methods.blotching.answers import judge, vote
from terse.methods.blotching.chains import chain_of, text_chains
from terse.methods.blotching.figures import (
    by_length,
    by_temperature,
    joined,
    over_seeds,
    series_names,
)
from terse.methods.blotching.losses import chain_losses
from terse.methods.blotching.spec import BLOTCHING
from terse.settings.corpora import Corpus
from terse.training.method import Inputs, mean_loss
from tiny_blotching import SETTINGS, blotching, built, settings
from tiny_run import AtStep, train_into

# Everything random at once: dropout, drawn positions, blotches, a curriculum.
RANDOM = {
    "posenc_type": "RandSinPositionalEncoding", "drop_p": 0.1, "curriculum_steps": 4,
    "tok_drop_p": 0.1, "n_grad_loops": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train_into(tmp_path_factory.mktemp("trained"), blotching(**RANDOM))


@pytest.mark.parametrize("step", [1, 4])
def test_resumed_equals_uninterrupted(step: int, tmp_path: Path, trained: Path) -> None:
    method, stop = blotching(**RANDOM), StopSignal()
    method.callbacks = lambda: [AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, method, stop)
    train_into(tmp_path, blotching(**RANDOM))
    files = [f.relative_to(trained) for f in trained.glob("*/**/*.safetensors")]
    assert len(files) == 4
    for file in files:
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


def test_rows_are_read_in_their_order(tmp_path: Path) -> None:
    """Row i belongs to step i // rows_per_step, on which the curriculum relies."""
    method, seen = blotching(), []
    rows = method.training_rows()

    class Noted:
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> Any:
            seen.append(index)
            return rows[index]

    method.training_rows = Noted  # type: ignore[method-assign, assignment]
    train_into(tmp_path, method)
    assert seen == list(range(6 * 8))


def test_the_history_has_the_schedule_of_the_settings(trained: Path) -> None:
    history = pd.read_csv(trained / "history.csv")
    rates = history[history["split"] == "train"].set_index("step")["learning_rate"]
    expected = [settings(**RANDOM).lr_factor(step) * 5e-3 for step in rates.index]
    np.testing.assert_allclose(rates, expected)
    assert rates.iloc[-1] < rates.iloc[0]


def test_a_saved_model_is_the_one_that_was_trained(trained: Path) -> None:
    method = blotching(**RANDOM)
    model = method.load(trained / "model")
    history = pd.read_csv(trained / "history.csv")
    last = history[history["split"] == "validation"]["loss_nats"].iloc[-1]
    assert mean_loss(method, model, method.validation_rows(), "cpu") == pytest.approx(
        last, rel=1e-5
    )
    with pytest.raises(TerseError, match="is of another run"):
        blotching(**RANDOM | {"arm": "direct", "curriculum_steps": 0}).load(trained / "model")


_EMPTY: tuple[pd.DataFrame, dict[str, pd.DataFrame]] = (pd.DataFrame(), {})


@pytest.fixture(scope="module")
def runs() -> list[FinishedRun]:
    """Two arms, untrained, scored and tabulated."""
    finished = []
    for name, changes in (
        ("a", {}), ("b", {"seed": 1}), ("c", {"blotch_p": 0.0}), ("d", {"label_smoothing": 0.1}),
        ("e", {"blotch_p": 0.4}),
    ):  # fmt: skip
        method = blotching(**changes, max_num=15, max_ents=2, n_val_problems=6, n_layers=1)
        model = built(method)
        evaluation = pd.DataFrame([vars(m) for m in method.evaluate(model, "cpu")])
        tables = method.tables(model, "cpu")
        finished.append(FinishedRun(name, method.settings, evaluation, tables))
    return finished


def test_every_request_is_scored(runs: list[FinishedRun]) -> None:
    found = runs[0].evaluation.set_index(["arm", "measure"])["value"]
    for arm in ("greedy p=0", "greedy p=0.5", "T=0.7 p=1", "T=1 p=0.5", "ood greedy p=1"):
        for measure in ("accuracy", "ended", "length_ratio", "valid_statements"):
            assert found[arm, measure] >= 0
    assert 0 <= found["chance", "accuracy"] <= 0.5
    assert ("vote p=0.5", "accuracy") in found
    assert found["chains p=0.5", "loss_nats"] > 1
    ratio = found["chains p=1", "loss_nats_per_original_token"] / found["chains p=1", "loss_nats"]
    assert (
        ratio
        < found["chains p=0", "loss_nats_per_original_token"] / found["chains p=0", "loss_nats"]
        == pytest.approx(1)
    )
    vanilla = runs[2].evaluation
    assert "greedy" in set(vanilla["arm"])
    assert not vanilla["arm"].str.contains("p=0.5").any()


def test_the_report_has_every_table_and_figure_with_its_caption(runs: list[FinishedRun]) -> None:
    tables = joined_tables(BLOTCHING, runs)
    assert set(tables) == {"answers", "by_length", "losses", "cost", "samples"}
    own = tables["answers"][tables["answers"]["run"] == "a"]
    assert len(own) == 3 + 3 + 3 + 3 + 3  # greedy, T 0.7, T 1, out of distribution, votes
    assert set(own["n_votes"]) == {1, 2}
    assert (own["accuracy_low"] <= own["accuracy"]).all()
    figures = figures_of(BLOTCHING, runs)
    assert set(figures) == {"intensity", "temperature", "length", "held-out", "losses"}
    labels = [text.get_text() for text in figures["intensity"].legends[0].get_texts()]
    assert labels == ["vanilla", "blind", "intensity", "intensity, label_smoothing 0.1"]
    assert series_names(runs)["b"] == "intensity"
    # A line all along for each arm that takes no requests.
    assert [line.get_linestyle() for line in figures["intensity"].axes[0].lines].count("--") == 2


def test_series_are_told_apart_by_what_is_not_the_commonest() -> None:
    def names(*layers: int) -> list[str]:
        found = [FinishedRun(str(i), settings(n_layers=n), *_EMPTY) for i, n in enumerate(layers)]
        return list(series_names(found).values())

    assert names(2, 2, 3) == ["intensity", "intensity", "intensity, n_layers 3"]
    assert names(2, 3) == ["intensity, n_layers 2", "intensity, n_layers 3"]


def test_every_arm_is_drawn_against_temperature_without_votes(runs: list[FinishedRun]) -> None:
    table = joined(runs, "answers")
    figure = by_temperature(table[table["n_votes"] == 1])
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["vanilla", "blind", "intensity", "intensity, label_smoothing 0.1"]


def test_seeds_are_averaged_with_students_interval() -> None:
    table = pd.DataFrame({"series": "x", "accuracy": [0.4, 0.5, 0.6], "n_problems": 100})
    row = over_seeds(table, ["series"], "accuracy").iloc[0]
    assert row["mean"] == pytest.approx(0.5)
    assert row["high"] - row["mean"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-4)
    one = over_seeds(table[:1], ["series"], "accuracy").iloc[0]
    assert (one["low"], one["high"]) == wilson(40, 100)
    high = over_seeds(table.assign(accuracy=[0.9, 1.0, 1.0]), ["series"], "accuracy").iloc[0]
    assert high["low"] < 0.9 < high["high"] == 1


def test_problems_of_all_seeds_are_counted_together() -> None:
    table = pd.DataFrame(
        {"series": "intensity", "arm": "intensity", "requested_p": 0.0, "steps": 2,
         "accuracy": [0.4, 0.6], "n_problems": 10}
    )  # fmt: skip
    (bars,) = by_length(table).axes[0].containers
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx(wilson(10, 20))


def test_wilsons_interval() -> None:
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (3, 10), (99, 100)):
        exact = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx((exact.low, exact.high))


def test_an_answer_is_what_was_written_up_to_eos() -> None:
    problem = read("1+12")
    chain = chain_of(problem)  # 1+12=2+1+10=3+10=13

    def judged(text: str, ended: bool = True) -> dict[str, Any]:
        tokens = np.concatenate([encode(text), [EOS, 0, 0] if ended else []]).astype(int)
        return judge(tokens, problem, chain)

    right = judged("2+1+10=3+10=13")
    assert (right["is_right"], right["n_valid"], right["n_statements"]) == (True, 3, 3)
    assert right["n_tokens"] == right["gold_tokens"] == len("2+1+10=3+10=13") + 1
    assert right["gold_steps"] == 2
    wrong = judged("2+1+10=4+10=14")
    assert (wrong["is_right"], wrong["n_valid"], wrong["answer"]) == (False, 1, "14")
    lucky = judged("9=13")
    assert (lucky["is_right"], lucky["n_valid"]) == (True, 1)
    for text, ended in (("13", False), ("13=", True), ("3+10", True), ("013", True)):
        assert not judged(text, ended)["is_right"], text
    for hole in (PAD, NULL):
        tokens = np.array([*encode("2+1+10=1"), hole, *encode("3"), EOS, PAD])
        row = judge(tokens, problem, chain)
        assert (row["is_right"], row["n_valid"], row["n_tokens"]) == (False, 1, 11)
    assert decode(chain.tokens) == "1+12=2+1+10=3+10=13"


def test_the_commonest_answer_wins_and_the_first_of_equals() -> None:
    def table(*answers: str) -> pd.DataFrame:
        ended = [not a.endswith("?") for a in answers]
        answers = tuple(a.rstrip("?") for a in answers)
        right = [a == "7" and e for a, e in zip(answers, ended, strict=True)]
        return pd.DataFrame({"answer": answers, "ended": ended, "is_right": right})

    votes = [
        table("7", "1", "7", "3", "7?", "1?"), table("7", "7", "1", "7", "7?", "1?"),
        table("1", "7", "2", "3?", "1?", "7"),
    ]  # fmt: skip
    assert vote(votes).tolist() == [True, True, True, False, False, True]


@pytest.mark.slow
def test_a_trained_model_solves_what_it_has_not_seen(tmp_path: Path) -> None:
    method = blotching(
        max_num=20, max_ents=2, n_problems=3000, n_val_problems=60, d_model=64, n_layers=2,
        max_steps=500, batch_size=64, lr=4e-3, warmup_steps=50, log_interval=100,
        eval_interval=500, checkpoint_steps=[], val_batch_size=60,
    )  # fmt: skip
    folder = train_into(tmp_path, method)
    found = method.evaluate(method.load(folder / "model"), "cpu")
    values = {(m.arm, m.measure): m.value for m in found}
    assert values["greedy p=0", "accuracy"] > values["chance", "accuracy"] + 0.3
    assert values["greedy p=1", "length_ratio"] <= values["greedy p=0", "length_ratio"]


# --- text --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Sentences of 25 pages of Python's documentation, and a tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    corpus = Corpus(
        source="python-docs", max_dataset_size=25, validation_fraction=0.3,
        separator_pattern=r"[.:]\s+",
    )  # fmt: skip
    write_documents(corpus, folder / "d.parquet")
    train_bpe(folder / "d.parquet", vocab_size=300, seed=0, folder=folder / "t")
    tokenize_documents(folder / "d.parquet", load_tokenizer(folder / "t"), folder / "tokens.h5")
    return Inputs(tokens=folder / "tokens.h5", tokenizer=folder / "t")


_OF_PROBLEMS = (
    "max_num", "max_ents", "n_problems", "n_votes", "n_samples", "eval_temps",
)  # fmt: skip
TEXT: dict[str, Any] = dict.fromkeys(_OF_PROBLEMS) | {
    "corpus": "c", "tokenizer": "t", "seq_len": 120,
}  # fmt: skip


def test_windows_are_whole_sentences(text_inputs: Inputs) -> None:
    tokenizer = load_tokenizer(text_inputs.tokenizer)
    chains = text_chains(text_inputs.tokens, "train", 120, tokenizer.eos_token_id)
    assert len(chains) > 20
    for chain in chains:
        assert len(chain.tokens) <= 120
        assert chain.tokens[-1] == tokenizer.eos_token_id
        assert chain.n_droppable >= 0
        pieces = [
            tokenizer.decode(chain.tokens[:-1][chain.steps[:-1] == i])
            for i in range(chain.n_droppable + 1)
        ]
        assert all(piece.rstrip().endswith((".", ":")) for piece in pieces)
    assert any(chain.n_droppable > 2 for chain in chains)
    store = TokenStore(text_inputs.tokens, "train")
    whole = [f" {' '.join(map(str, store.document(i)))} " for i in range(len(store))]
    short = text_chains(text_inputs.tokens, "train", 40, tokenizer.eos_token_id)
    for chain in (*short, *chains):
        window = f" {' '.join(map(str, chain.tokens[:-1]))} "
        assert any(window in document for document in whole)
    with pytest.raises(TerseError, match="no two neighbouring steps within 3 tokens"):
        text_chains(text_inputs.tokens, "train", 3, 1)


def test_a_token_belongs_to_the_step_in_which_it_ends(text_inputs: Inputs) -> None:
    store = TokenStore(text_inputs.tokens, "train")
    expected = []
    for document in range(len(store)):
        borders = np.array(json.loads(store.metadata_of(document))["step_ends"][:-1])
        ends = store.byte_ends[store.offsets[document] : store.offsets[document + 1]]
        steps = np.unique((borders < ends[:, None]).sum(1), return_inverse=True)[1]
        if steps[-1] > 0:
            expected.append([*steps, steps[-1]])  # EOS is the answer's
    found = text_chains(text_inputs.tokens, "train", 10**6, 1)
    assert [chain.steps.tolist() for chain in found] == expected


def test_scored_windows_are_spread_evenly(text_inputs: Inputs) -> None:
    method = blotching(text_inputs, **TEXT | {"n_val_problems": 3, "arm": "vanilla"})
    chains = method.validation_chains
    every = blotching(text_inputs, **TEXT | {"n_val_problems": 10**6, "arm": "vanilla"})
    model = built(method)
    found = method.tables(model, "cpu")["losses"]
    chosen = [0, len(chains) // 3, 2 * len(chains) // 3]
    nats = chain_losses(model, every.layout, [chains[i] for i in chosen], 0.0)
    assert len(chains) > 6
    assert found["loss_nats"][0] == pytest.approx(nats["nats"].sum() / nats["n_targets"].sum())


def test_text_is_trained_on_and_scored(text_inputs: Inputs, tmp_path: Path) -> None:
    method = blotching(text_inputs, **TEXT)
    folder = train_into(tmp_path, method)
    model = method.load(folder / "model")
    found = {(m.arm, m.measure): m.value for m in method.evaluate(model, "cpu")}
    assert 4 < found["chains p=0", "loss_nats"] < 7
    assert found["chains p=1", "loss_nats_per_original_token"] < found["chains p=1", "loss_nats"]
    tables = method.tables(model, "cpu")
    assert set(tables) == {"losses", "cost"}
    run = FinishedRun("t", method.settings, pd.DataFrame(), tables)
    assert set(figures_of(BLOTCHING, [run])) == {"losses"}
    assert (folder / "model" / "tokenizer.json").exists()
    # Another run may start from it: its own language model, tied or not, is a whole one.
    base = Inputs(tokens=text_inputs.tokens, base=folder / "model")
    plain = {"d_model": None, "n_layers": None, "n_heads": None, "tokenizer": None, "base": "b"}
    onward = blotching(base, **(TEXT | plain), blotch_spacing="equal")
    started = onward.build()
    before = mean_loss(onward, started.eval(), onward.validation_rows(), "cpu")
    assert 4 < before < 8


def test_a_corpus_without_steps_is_refused(text_inputs: Inputs, tmp_path: Path) -> None:
    plain = Corpus(source="python-docs", max_dataset_size=3, validation_fraction=0.0)
    write_documents(plain, tmp_path / "d.parquet")
    tokenizer = load_tokenizer(text_inputs.tokenizer)
    tokenize_documents(tmp_path / "d.parquet", tokenizer, tmp_path / "tokens.h5")
    with pytest.raises(TerseError, match="has no steps: give it a separator"):
        text_chains(tmp_path / "tokens.h5", "train", 100, 1)


# --- import ------------------------------------------------------------------------------------

FLAT: dict[str, Any] = {
    "exp_name": "Blotch_5", "save_root": "/data/runs", "data_root": "/scratch", "multi_gpu": False,
    "model_parallel": False, "torch_dtype": "torch.float32", "seed": 5, "dataset": "arithmetic",
    "n_data_procs": 2, "max_val_loops": 9, "n_train_loops": 50, "checkpt_mod": 20, "n_epochs": 4,
    "batch_size": 32, "lr": 1e-3, "l2": 1e-4, "seq_len": 600, "blotch_p": None,
    "blotch_p_min": 0.1, "blotch_p_max": 0.9, "n_btokens": 9, "blotch_spacing": "random",
    "contig_blotches": True, "tok_drop_p": 0.1, "posenc_type": "SinPositionalEncoding",
    "max_posencs": 700, "posenc_drop_p": 0.1, "learn_posencs": True, "incl_intl_prob": True,
    "n_grad_loops": 2, "pad_pos_skip": True, "excise_tokens": True, "d_model": 64, "n_heads": 2,
    "h_mult": 4, "n_layers": 5, "drop_p": 0.1, "label_smoothing": 0.15, "warmup_steps": 10,
    "lr_decay_exp": 0.4, "min_lr": 1e-7, "max_num": 500, "max_ents": 3, "p_mult": 0.2,
    "max_mult_num": 12, "p_ent": 0.4, "space_mults": True, "zipf_order": 1, "val_temp": 0.5,
}  # fmt: skip


def imported(folder: Path, **changes: Any) -> tuple[Any, Any]:
    path = folder / "hyperparameters.json"
    path.write_text(json.dumps(FLAT | changes))
    overlay = import_file(path)
    assert overlay.unknown == {}
    return overlay, overlay.config["runs"]["blotch-5"]


def test_every_key_of_a_flat_file_has_its_place(tmp_path: Path) -> None:
    overlay, run = imported(tmp_path)
    assert overlay.config["roots"] == {"results": "/data/runs", "cache": "/scratch"}
    moved = {
        "exp_name", "save_root", "data_root", "multi_gpu", "torch_dtype", "dataset",
        "n_data_procs", "checkpt_mod", "learn_posencs", "blotch_p",
    }  # fmt: skip
    for key in FLAT.keys() - moved:
        assert run[key] == FLAT[key], key
    assert (run["save_interval"], run["learnable_posencs"]) == (20, True)
    assert "corpus" not in run
    assert "corpora" not in overlay.config
    made = settings(**(dict.fromkeys(SETTINGS) | run))
    assert (made.max_steps, made.arm, made.precision) == (200, "intensity", "float32")


def test_what_a_run_does_not_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    overlay, run = imported(
        tmp_path, blotch_p=0.3, dataset="openwebtext", model_string="a/lm",
        posenc_type="RotaryPositionalEncoding",
    )  # fmt: skip
    assert (run["corpus"], run["base"], run["blotch_p"]) == ("openwebtext", "lm", 0.3)
    assert not {"max_num", "d_model", "n_btokens", "max_posencs"} & set(run)
    assert {"max_num", "d_model", "n_btokens"} <= set(overlay.notes)


@pytest.mark.parametrize(
    ("changes", "dropped", "kept"),
    [
        ({"blotch_p": [0.3, 0.5]}, {"n_btokens", "blotch_p_max"}, {"max_num"}),
        ({"combos": {"blotch_p": [0.3, 0.5], "lr": [1e-3, 2e-3]}}, {"n_btokens"}, set()),
        (
            {"combos": {"max_num": [30, 50], "lr": [1e-3, 2e-3]}, "dataset": "openwebtext",
             "model_string": "a/lm"},
            {"max_num", "d_model"}, {"n_btokens"},
        ),
        ({"posenc_type": ["RandPositionalEncoding", "SinPositionalEncoding"]}, set(),
         {"max_posencs"}),
    ],
)  # fmt: skip
def test_swept_keys_count_too(
    tmp_path: Path, changes: dict, dropped: set[str], kept: set[str]
) -> None:
    overlay, run = imported(tmp_path, **changes)
    swept = run["sweep"]
    assert not dropped & (run.keys() | swept.keys() | swept.get("zip", {}).keys())
    assert dropped <= set(overlay.notes)
    assert kept <= run.keys()
