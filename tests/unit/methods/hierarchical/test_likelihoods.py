"""The two-part bound by hand."""

import torch

from terse.methods.hierarchical.likelihoods import two_part
from tiny_hierarchical import model, rows


def test_the_bound_pays_for_each_code_and_for_their_end() -> None:
    found, ids = model({"codebook_size": 6}), rows(30, 22)
    with torch.inference_mode():
        levels = found.encode(ids)
        scored = two_part(found, levels)
        head = found.code_lm.head
        assert head is not None
        for row, n in enumerate(levels[0].n.tolist()):
            states = found.code_lm(levels[0].rows[row : row + 1, :n])[0]
            symbols = [*levels[0].codes[row, :n, 0].tolist(), 7]  # EOS stands behind BOS, 6
            logs = torch.log_softmax(head.heads[0](head.norm(states)), -1)
            paid = -sum(logs[j, symbol] for j, symbol in enumerate(symbols))
            torch.testing.assert_close(scored.codes[row], paid, rtol=1e-4, atol=1e-3)
    alone = two_part(found, found.encode(ids[1:, :22]))
    torch.testing.assert_close(scored.total[1:], alone.total, rtol=1e-4, atol=1e-3)
