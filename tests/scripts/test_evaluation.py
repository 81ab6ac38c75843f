"""The table that the evaluation script writes."""

import math

import h5py
import pandas as pd
import pytest

from script_chain import Chain


def test_evaluate_run(chain: Chain) -> None:
    table = pd.read_csv(chain.run / "evaluation.csv").set_index(["arm", "measure"])
    assert list(table.columns) == [
        "value", "interval_low", "interval_high", "n", "targets", "flag",
    ]  # fmt: skip
    assert set(table["targets"]) == {"all validation documents of docs"}
    bits, loss = (table.loc[("model", m)] for m in ("bits_per_byte", "loss_nats"))
    assert bits["interval_low"] < bits["value"] < bits["interval_high"]
    assert 4.5 < loss["value"] < math.log(300)
    assert table.loc[("uniform", "bits_per_byte"), "value"] == 8
    xz, primed = (table.loc[(arm, "bits_per_byte"), "value"] for arm in ("xz", "xz_primed"))
    assert primed < xz < 8
    with h5py.File(chain.inputs.tokens or "") as file:
        per_token = file["validation"]["n_bytes"][:].sum() / len(file["validation"]["tokens"])
        assert table["n"].eq(len(file["validation"]["id"])).all()
    assert bits["value"] == pytest.approx(loss["value"] / math.log(2) / per_token, rel=1e-6)
    positions, flops = (
        table.loc[("model", f"{m}_per_byte"), "value"] for m in ("positions", "flops")
    )
    assert 1 / per_token < positions < 2.2 / per_token  # half a window is read twice
    assert flops > positions * 2 * 2 * (4 * 16 + 3 * 44) * 16  # the blocks' weights alone
