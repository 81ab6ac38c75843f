"""Statistics whose unit is the document."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from terse.dimension import spearman, statistics
from terse.dimension.spearman import rank_correlation, rank_correlations
from terse.dimension.statistics import (
    paired_difference,
    standard_error,
    summarise,
)
from terse.errors import TerseError


def table(n_documents: int = 12, n_chunks: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return IDs of two layers in which a document's chunks share most of their variation."""
    random = np.random.default_rng(seed)
    of_document = random.normal(12, 2, n_documents)
    rows = pd.DataFrame(
        {
            "model": "base",
            "revision": None,
            "module": f"block-l{layer}",
            "layer": layer,
            "estimator": "mle",
            "document": f"d{document}",
            "chunk": chunk,
            "n_eff": 128,
            "id": of_document[document] + layer + random.normal(0, 0.1),
        }
        for layer in (0, 1)
        for document in range(n_documents)
        for chunk in range(n_chunks)
    )
    if rows.empty:
        return rows
    return rows.assign(id_without_sinks=rows["id"] - 1, flags="duplicates", first_share=0.25)


def test_one_chunk_a_document_gives_the_textbook_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert standard_error(values, np.arange(40)) == pytest.approx(stats.sem(values))


def test_copies_of_a_chunk_are_no_evidence() -> None:
    values = np.random.default_rng(0).normal(size=40)
    copied = standard_error(np.repeat(values, 5), np.repeat(np.arange(40), 5))
    assert copied == pytest.approx(stats.sem(values))


def test_coverage_of_the_mean_is_right_with_clustered_chunks() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        of_document = random.normal(size=30)
        values = np.repeat(of_document, 4) + random.normal(0, 0.3, 120)
        error = standard_error(values, np.repeat(np.arange(30), 4))
        inside += abs(values.mean()) < stats.t.ppf(0.975, 29) * error
    assert 0.91 < inside / 400 < 0.98


def test_summary_counts_what_is_undefined() -> None:
    ids = table()
    ids.loc[0, "id"] = np.nan
    ids.loc[:4, "flags"] = "duplicates;sink"
    summary = summarise(ids).set_index("layer")
    assert summary.loc[0, "n"] == 35
    assert summary.loc[0, "n_undefined"] == 1
    assert summary.loc[1, "n_undefined"] == 0
    assert summary.loc[1, "n_documents"] == 12
    layer = ids[ids["layer"] == 1]
    assert summary.loc[1, "mean"] == pytest.approx(layer["id"].mean())
    assert summary.loc[1, "median"] == pytest.approx(layer["id"].median())
    assert summary.loc[1, "mean_without_sinks"] == pytest.approx(layer["id"].mean() - 1)
    assert (summary.loc[1, "n_sink"], summary.loc[1, "first_share"]) == (0, 0.25)
    means = layer.groupby("document")["id"].mean()
    assert summary.loc[1, "standard_error"] == pytest.approx(stats.sem(means))


def test_summary_of_nothing_defined_or_one_document() -> None:
    ids = table(n_documents=1)
    ids.loc[ids["layer"] == 0, "id"] = np.nan
    summary = summarise(ids).set_index("layer")
    assert np.isnan(summary.loc[0, "mean"])
    assert summary.loc[0, "n_documents"] == 0
    assert np.isnan(summary.loc[1, "standard_error"])
    assert summarise(table().head(0)).empty
    with pytest.raises(TerseError, match="lacks document"):
        summarise(table().drop(columns="document"))


def test_rank_correlation_equals_scipys_and_its_interval_knows_documents() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=60)
    y = x + random.normal(size=60)
    found = rank_correlation(x, y, np.arange(60), seed=0)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.rho < found.high
    assert found == rank_correlation(x, y, np.arange(60), seed=0)
    copied = rank_correlation(*(np.repeat(v, 4) for v in (x, y, np.arange(60))), seed=0)
    assert copied.high - copied.low == pytest.approx(found.high - found.low, rel=0.15)


def test_rank_correlation_leaves_out_undefined_pairs_and_refuses_unequal_lengths() -> None:
    x = np.array([1.0, 2.0, np.nan, 4.0])
    found = rank_correlation(x, np.array([1.0, 2.0, 3.0, 5.0]), np.arange(4), seed=0)
    assert (found.rho, found.n) == (pytest.approx(1), 3)
    constant = rank_correlation(np.ones(5), np.arange(5.0), np.arange(5), seed=0)
    assert np.isnan(constant.rho)
    with pytest.raises(TerseError, match="lengths 4, 3, 4"):
        rank_correlation(x, x[:3], np.arange(4), seed=0)


def test_paired_difference_sees_what_unpaired_errors_would_hide() -> None:
    ids = table()
    a, b = ids[ids["layer"] == 1], ids[ids["layer"] == 0]
    found = paired_difference(a, b.sample(frac=1, random_state=0))
    assert found.mean == pytest.approx(1, abs=0.1)
    assert found.standard_error < 0.05
    assert found.low < 1 < found.high
    assert (found.n, found.n_documents, found.n_unpaired, found.n_unequal) == (36, 12, 0, 0)


def test_paired_difference_counts_what_it_leaves_out() -> None:
    ids = table()
    a, b = ids[ids["layer"] == 1].copy(), ids[ids["layer"] == 0].copy()
    a.iloc[0, a.columns.get_loc("n_eff")] = 100
    b.iloc[5, b.columns.get_loc("id")] = np.nan
    found = paired_difference(a, b.iloc[:-2])
    assert (found.n, found.n_unpaired, found.n_unequal) == (32, 3, 1)
    with pytest.raises(TerseError, match="occurs twice"):
        paired_difference(ids, b)


def test_the_interval_is_that_of_resampled_documents_ranked_anew() -> None:
    random = np.random.default_rng(5)
    x, groups = random.normal(size=90).round(1), np.repeat(np.arange(30), 3)  # with ties
    y = (x + random.normal(size=90)).round(1)
    drawn = np.random.default_rng(7).integers(30, size=(2000, 30))
    each = [np.concatenate([np.flatnonzero(groups == document) for document in d]) for d in drawn]
    naive = [stats.spearmanr(x[at], y[at]).statistic for at in each]
    found = rank_correlation(x, y, groups, seed=7)
    np.testing.assert_allclose([found.low, found.high], np.quantile(naive, [0.025, 0.975]))


def test_several_correlations_with_one_side_are_those_of_each_alone() -> None:
    random = np.random.default_rng(2)
    y, groups = random.normal(size=90).round(1), np.repeat(np.arange(30), 3)
    xs = [(y + random.normal(size=90)).round(digits) for digits in (0, 1, 9)]
    xs[1][random.random(90) < 0.2] = np.nan  # these have other documents, so other resamples
    xs.append(np.ones(90))
    found = rank_correlations(xs, y, groups, seed=3)
    alone = [rank_correlation(x, y, groups, seed=3) for x in xs]
    np.testing.assert_array_equal(found, alone)
    assert found[1].n < found[0].n == 90


def test_very_many_pairs_are_ranked_without_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    y, groups = random.normal(size=90).round(1), np.repeat(np.arange(30), 3)
    x = y + random.normal(size=90)
    exact = rank_correlation(x, y, groups, seed=3)
    monkeypatch.setattr(spearman, "_MOST_EXACT", 0)
    found = rank_correlation(x, y, groups, seed=3)
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    ranks = spearman._ResampledRanks([x], y, np.repeat(np.arange(30), 3))
    assert ranks._y.ranks(np.ones(30, dtype=int))[1].dtype == np.float64


def test_a_summary_is_the_same_whatever_the_order_of_rows_and_the_type_of_words() -> None:
    ids = table()
    ids.loc[::7, "id"], ids.loc[::5, "flags"] = np.nan, "sink"
    ids.loc[::3, "id_without_sinks"] = np.nan
    together = summarise(ids)
    words = dict.fromkeys(("model", "module", "estimator", "document", "flags"), "category")
    pd.testing.assert_frame_equal(
        summarise(ids.astype(words)).astype(dict.fromkeys(("model", "module"), object)),
        together.astype(dict.fromkeys(("model", "module"), object)),
    )
    mixed = summarise(ids.sample(frac=1, random_state=1)).sort_values("layer", ignore_index=True)
    pd.testing.assert_frame_equal(mixed, together, rtol=1e-12)


def test_documents_that_are_left_out_altogether_do_not_count() -> None:
    ids = table()
    a, b = (ids[ids["layer"] == layer].copy() for layer in (1, 0))
    for gone in ("d0", "d9"):  # the first and the last in alphabetical order
        one, other = a.copy(), b.copy()
        one.loc[one["document"] == gone, "n_eff"] = 100
        found = paired_difference(one, other)
        kept = paired_difference(*(side[side["document"] != gone] for side in (a, b)))
        assert (found.n, found.n_documents, found.n_unequal) == (33, 11, 3)
        np.testing.assert_allclose(found[:4], kept[:4], rtol=1e-12)
    nothing = paired_difference(a.assign(n_eff=1), b)
    assert (nothing.n, nothing.n_documents, nothing.n_unequal) == (0, 0, 36)
    assert np.isnan(nothing[:4]).all()


def test_the_quantile_is_students() -> None:
    for freedom in (1, 2, 11, 3333):
        assert statistics._quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom))
