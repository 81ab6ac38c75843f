"""Each token of the text is scored once."""

import numpy as np

from terse.corpora.token_store import TokenStore
from terse.methods.forgetting.rows import AllBlocks, Lengths
from terse.training.method import Inputs


def test_each_token_of_the_text_is_scored_once(inputs: Inputs) -> None:
    assert inputs.tokens is not None
    store = TokenStore(inputs.tokens, "validation")
    windows = AllBlocks(store, Lengths(20, 8), 0, 0)
    seen: dict[int, list[int]] = {}
    n_bytes = np.zeros(len(store))
    for i in range(len(windows)):
        item = windows[i]
        ids, target = item["input_ids"], item["is_target"]
        seen.setdefault(item["document"], []).extend(ids[target].tolist())
        n_bytes[item["document"]] += item["target_bytes"]
        context = ids[item["attention_mask"] & ~target].tolist()
        before = [0, *seen[item["document"]][: -int(target.sum())]]
        assert context[0] == 0
        assert context[1:] == before[1:][-19:]
    for document, tokens in seen.items():
        assert tokens == store.document(document).tolist()
    assert (n_bytes == store.n_bytes).all()
