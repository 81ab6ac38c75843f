"""Quantisers: codes, gradients, moving averages, resets and known codebooks."""

import pytest
import torch
from torch import Tensor

from terse.methods.hierarchical.quantizers import (
    FiniteScalarQuantizer,
    NoQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
    perplexity,
)
from tiny_hierarchical import draw


def everywhere(z: Tensor) -> Tensor:
    return torch.ones(z.shape[:-1], dtype=torch.bool)


def test_straight_through_gives_codes_values_and_inputs_gradients() -> None:
    vq = VectorQuantizer(4, 8, beta=0.5)
    z = draw(5, 4).requires_grad_()
    found = vq(z, everywhere(z))
    nearest = torch.cdist(z.detach(), vq.codebook).argmin(1)
    assert torch.equal(found.codes[:, 0], nearest)
    assert torch.equal(found.vectors, vq.codebook[nearest])
    assert torch.equal(vq.lookup(found.codes), found.vectors)
    weights = draw(5, 4, seed=1)
    (grad,) = torch.autograd.grad((found.vectors * weights).sum(), z, retain_graph=True)
    assert torch.equal(grad, weights)
    expected = 0.5 * (z - vq.codebook[nearest]).square().mean(-1).sum()
    torch.testing.assert_close(found.loss, expected)


def test_without_decay_codes_are_the_means_of_their_inputs() -> None:
    vq = VectorQuantizer(3, 4, decay=0.0).train()
    z, before = draw(40, 3), vq.codebook.clone()
    codes = vq(z, everywhere(z)).codes[:, 0]
    assert torch.equal(vq.codebook, before)  # not before the step
    vq.after_step()
    for code in range(4):
        hit = z[codes == code]
        expected = hit.mean(0) if len(hit) else before[code]
        torch.testing.assert_close(vq.codebook[code], expected)


def test_equal_batches_move_the_averages_as_a_geometric_series() -> None:
    vq = VectorQuantizer(2, 2, decay=0.9).train()
    start = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    vq.codebook.copy_(start)
    vq.cluster_sum.copy_(start)
    z = torch.tensor([[2.0, 0.5], [1.0, 0.1], [-3.0, 0.0]])
    for _ in range(7):  # two micro-batches a step
        vq(z[:1], everywhere(z[:1]))
        vq(z[1:], everywhere(z[1:]))
        vq.after_step()
    kept = 0.9**7
    torch.testing.assert_close(vq.cluster_size, kept + (1 - kept) * torch.tensor([2.0, 1.0]))
    sums = torch.stack([z[:2].sum(0), z[2]])
    torch.testing.assert_close(vq.cluster_sum, kept * start + (1 - kept) * sums)
    torch.testing.assert_close(vq.codebook, vq.cluster_sum / vq.cluster_size[:, None])


def test_masked_rows_and_evaluation_teach_nothing() -> None:
    z, mask = draw(6, 4), torch.tensor([True, True, False, True, False, True])
    torch.manual_seed(0)
    one = VectorQuantizer(4, 8, beta=1.0)
    torch.manual_seed(0)
    other = VectorQuantizer(4, 8, beta=1.0)
    with_masked, without = one(z, mask), other(z[mask], everywhere(z[mask]))
    torch.testing.assert_close(with_masked.loss, without.loss)
    one.after_step()
    other.after_step()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.eval()
    one(draw(9, 4, seed=3), everywhere(draw(9, 4)))
    one.train()
    with torch.no_grad():
        one(draw(9, 4, seed=3), everywhere(draw(9, 4)))
    one.after_step()
    for name, value in one.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_dead_codes_become_recent_inputs() -> None:
    vq = VectorQuantizer(2, 6, decay=0.5, reset_interval=3).train()
    z = torch.tensor([[50.0, 0.0], [51.0, 0.0], [50.0, 1.0]])
    for _ in range(3):
        vq(z, everywhere(z))
        vq.after_step()
    used = vq(z, everywhere(z)).codes
    assert torch.cdist(vq.codebook, z).amin(1).max() < 2.0  # none is left at the origin
    assert len(used.unique()) == 3
    assert vq.idle.tolist().count(0) == 6


def test_codes_keep_their_meaning_after_the_last_reset() -> None:
    vq = VectorQuantizer(2, 6, decay=0.5, reset_interval=3, reset_until=5).train()
    z = torch.tensor([[50.0, 0.0], [51.0, 0.0], [50.0, 1.0]])
    seen = []
    for _ in range(9):
        seen.append(vq(z, everywhere(z)).codes[:, 0].tolist())
        vq.after_step()
    assert seen[2] != seen[3]  # reset behind the third step
    assert seen[3:] == [seen[3]] * 6
    assert vq.idle.max() > 3  # idle ever since, and left alone


def test_codes_come_into_use_as_recent_vectors() -> None:
    vq = VectorQuantizer(2, 6, decay=0.5, warmup=2).train()
    z = torch.tensor([[50.0, 0.0], [51.0, 0.0], [50.0, 1.0]])
    for _ in range(2):
        found = vq(z, everywhere(z))
        assert torch.equal(found.vectors, z)
        assert float(found.loss) == 0.0
        vq.eval()  # what is scored is what codes stand for, also by then
        assert torch.equal(vq(z, everywhere(z)).vectors, vq.codebook[vq.nearest(z)])
        vq.train()
        vq.after_step()
    assert torch.cdist(vq.codebook, z).amin(1).max() == 0.0
    used = vq(z, everywhere(z))
    assert float(used.loss) == 0.0
    assert len(used.codes.unique()) == 3
    assert torch.equal(used.vectors, z)
    vq.after_step()
    assert float(vq(z + 1.0, everywhere(z)).loss) > 0.0


def test_residual_codes_come_into_use_together() -> None:
    quantizer = ResidualQuantizer(2, 3, 2, beta=0.25, decay=0.9, reset_interval=0, warmup=1).train()
    z = torch.randn(20, 2)
    found = quantizer(z, everywhere(z))
    assert torch.equal(found.vectors, z)
    assert found.codes.shape == (20, 2)
    quantizer.after_step()
    found = quantizer(z, everywhere(z))
    assert torch.allclose(found.vectors, quantizer.lookup(found.codes))
    assert not torch.allclose(found.vectors, z)


def test_perplexity_counts_the_codes_in_use() -> None:
    quantizer = ResidualQuantizer(2, 3, 2, beta=0.25, decay=0.9, reset_interval=0)
    codes = torch.tensor([[0, 1], [1, 1], [2, 1]])
    assert quantizer.usage(codes).item() == pytest.approx((3 + 1) / 2)
    assert float(quantizer.smoothed_usage() or 0) == pytest.approx(3)
    assert perplexity(torch.full((7,), 3.0)).item() == pytest.approx(7)
    assert perplexity(torch.tensor([5.0, 0.0, 0.0])).item() == pytest.approx(1)


def test_residual_digits_add_up() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(4, 16, 3, beta=0.25, decay=0.9, reset_interval=0)
    z = draw(20, 4)
    found = quantizer(z, everywhere(z))
    assert found.codes.shape == (20, 3)
    rest = z
    for g, table in enumerate(quantizer.tables()):
        code = torch.cdist(rest, table).argmin(1)
        assert torch.equal(code, found.codes[:, g])
        rest = rest - table[code]
    torch.testing.assert_close(found.vectors, z - rest)
    assert torch.equal(quantizer.lookup(found.codes), found.vectors)


def test_finite_scalars_reach_every_code_of_their_grid() -> None:
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer(3, [2, 3, 4])
    with torch.no_grad():
        quantizer.down.weight.copy_(torch.eye(3))
        quantizer.down.bias.zero_()
    z = draw(4000, 3) * 2
    found = quantizer(z, everywhere(z))
    assert found.codes.unique().tolist() == list(range(24))
    torch.testing.assert_close(quantizer.lookup(found.codes), found.vectors)
    z.requires_grad_()
    (grad,) = torch.autograd.grad(quantizer(z, everywhere(z)).vectors.sum(), z)
    assert (grad.abs().sum(1) > 0).all()


def test_without_a_quantiser_vectors_stay() -> None:
    z = draw(2, 3, 4)
    found = NoQuantizer()(z, everywhere(z))
    assert torch.equal(found.vectors, z)
    assert found.codes.shape == (2, 3, 0)


def test_expected_vectors_are_means_over_codes() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(4, 5, 2, beta=0.25, decay=0.9, reset_interval=0)
    shares = [draw(5, seed=g).softmax(0) for g in range(2)]
    pairs = [(a, b) for a in range(5) for b in range(5)]
    expected = sum(
        shares[0][a] * shares[1][b] * quantizer.lookup(torch.tensor([a, b])) for a, b in pairs
    )
    torch.testing.assert_close(quantizer.expected(shares), expected)
