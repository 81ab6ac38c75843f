"""Parts of the hierarchical autoencoder against naive oracles and known answers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention

from terse.methods.hierarchical.attention import (
    SlidingWindowAttention,
    blocked,
    flexible,
    windowed,
)
from terse.methods.hierarchical.blocks import Stack
from terse.methods.hierarchical.pooling import LearnedQueryAttention, StreamingPool
from terse.methods.hierarchical.quantizers import (
    FiniteScalarQuantizer,
    NoQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
    perplexity,
)
from terse.methods.hierarchical.running_norm import RunningNorm
from terse.methods.hierarchical.segmentation import (
    Rule,
    StreamingSegmenter,
    offsets,
    opened,
    segment_ids,
)
from terse.methods.hierarchical.symbols import NO_DIGIT, SymbolHead, framed


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_window(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    out = torch.zeros_like(v)
    for t in range(q.shape[2]):
        read = slice(max(0, t - window), t + 1)
        scores = torch.einsum("bhd,bhkd->bhk", q[:, :, t], k[:, :, read]) / math.sqrt(q.shape[-1])
        out[:, :, t] = torch.einsum("bhk,bhkd->bhd", scores.softmax(-1), v[:, :, read])
    return out


@pytest.mark.parametrize(("T", "window"), [(1, 3), (9, 3), (12, 3), (13, 3), (5, 4), (9, 8)])
def test_windowed_attention_reads_the_window_only(T: int, window: int) -> None:
    q, k, v = (draw(2, 2, T, 4, seed=i).requires_grad_() for i in range(3))
    expected = naive_window(q, k, v, window)
    grads = torch.autograd.grad(expected.square().sum(), (q, k, v))
    ways = [windowed(q, k, v, window), blocked(q, k, v, window)]
    for found in ways:
        torch.testing.assert_close(found, expected)
        own = torch.autograd.grad(found.square().sum(), (q, k, v), retain_graph=True)
        torch.testing.assert_close(own, grads)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_reads_the_same_window() -> None:
    q, k, v = (draw(1, 2, 9, 8, seed=i) for i in range(3))
    found = flexible(q, k, v, 3, flex_attention)  # not compiled, the same mask
    torch.testing.assert_close(found, naive_window(q, k, v, 3))


@pytest.mark.parametrize(("width", "way"), [(8, "blocked"), (16, "flexible")])
def test_heads_too_narrow_for_the_compiled_kernel_go_without(
    width: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    module = "terse.methods.hierarchical.attention"
    monkeypatch.setattr(f"{module}.compiled_flex", lambda: None)
    for name in ("blocked", "flexible"):
        monkeypatch.setattr(f"{module}.{name}", lambda *_, name=name: used.append(name))
    with FakeTensorMode():
        q = torch.empty(1, 2, 40, width, device="cuda")
        windowed(q, q, q, 4)
    assert used == [way]


def test_padding_longer_than_the_window_gives_no_nan() -> None:
    torch.manual_seed(0)
    attention = SlidingWindowAttention(8, 2, 3)
    x = draw(1, 20, 8)
    short = attention(x[:, :5])
    x[:, 5:] = 0.0
    whole = attention(x)
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[:, :5], short)


@pytest.mark.parametrize("window", [3, None])
def test_a_stack_step_by_step_equals_the_parallel_pass(window: int | None) -> None:
    torch.manual_seed(0)
    stack = Stack(2, 8, 2, window, 2.0)
    x = draw(2, 40, 8)
    expected = stack(x)
    caches, n = stack.caches(2, x), [0, 0]
    order = [row for t in range(40) for row in ([0, 1] if t % 3 else [1])] + [0] * 14
    with torch.no_grad():
        for row in order:  # the rows advance at their own pace
            found = stack.step(x[[row], n[row]], caches, torch.tensor([row]))
            torch.testing.assert_close(found[0], expected[row, n[row]], rtol=1e-4, atol=1e-5)
            n[row] += 1
    assert n == [40, 40]


def test_the_rule_by_its_published_example() -> None:
    H = torch.tensor([[1.0, 1.3, 1.7, 1.65, 2.0]])
    opens = opened(H, Rule(0.2, None, None), torch.zeros(()))
    assert segment_ids(opens).tolist() == [[0, 0, 1, 2, 2]]
    assert offsets(opens).tolist() == [[0, 1, 0, 0, 1]]


def naive_segments(H: list[float], rule: Rule, shift: float) -> list[int]:
    ids, length = [0], 1
    for t in range(1, len(H)):
        rises = rule.delta is not None and t > 1 and H[t - 1] > H[t - 2] + rule.delta + shift
        high = rule.threshold is not None and H[t - 1] > rule.threshold + shift
        new = rises or high or length == rule.max_len
        ids.append(ids[-1] + new)
        length = 1 if new else length + 1
    return ids


@pytest.mark.parametrize(
    "rule", [Rule(0.1, None, None), Rule(None, 0.4, 5), Rule(0.3, 0.9, 2), Rule(9.0, None, 3)]
)
def test_segments_equal_a_loop_and_the_stream(rule: Rule) -> None:
    H, shift = draw(4, 50), torch.tensor(0.05)
    ids = segment_ids(opened(H, rule, shift))
    for row, entropies in zip(ids.tolist(), H.tolist(), strict=True):
        assert row == naive_segments(entropies, rule, 0.05)
    stream, place = StreamingSegmenter(rule, shift, 4), torch.zeros(4, dtype=torch.long)
    for t in range(49):
        place = place + stream.step(H[:, t], torch.arange(4))
        assert torch.equal(place, ids[:, t + 1])


def naive_pool(attention: LearnedQueryAttention, x: Tensor, segment: Tensor, n: int) -> Tensor:
    L, H = attention.num_queries, attention.heads
    scores = attention.score(x).unflatten(-1, (L, H))
    values = attention.value(x).unflatten(-1, (H, -1))
    out = x.new_zeros(n, L, x.shape[-1])
    for i in range(n):
        at = segment == i
        shares = scores[at].softmax(0)  # (positions, L, H)
        out[i] = torch.einsum("plh,phd->lhd", shares, values[at]).flatten(1)
    return attention.out(out)


def test_pooling_equals_a_loop_over_segments() -> None:
    torch.manual_seed(0)
    attention = LearnedQueryAttention(8, 2, 3)
    x = draw(2, 10, 8).requires_grad_()
    segment = torch.tensor([[0, 0, 1, 2, 2, 2, 3, 4, 4, 4], [0, 1, 1, 1, 1, 2, 2, 2, 2, 9]])
    mask = torch.tensor([[True] * 10, [True] * 8 + [False] * 2])
    found = attention(x, segment, mask, 5)
    loops = [
        naive_pool(attention, x[0], segment[0], 5),
        naive_pool(attention, x[1, :8], segment[1, :8], 3),
    ]
    torch.testing.assert_close(found[0], loops[0])
    torch.testing.assert_close(found[1, :3], loops[1])
    wanted = [x, *attention.parameters()]
    ours = torch.autograd.grad(found[0].square().sum() + found[1, :3].square().sum(), wanted)
    oracle = torch.autograd.grad(sum(loop.square().sum() for loop in loops), wanted)
    torch.testing.assert_close(ours, oracle)


def test_pooling_step_by_step() -> None:
    torch.manual_seed(0)
    attention = LearnedQueryAttention(8, 2, 2)
    x, segment = draw(1, 9, 8) * 5, torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2, 2]])
    expected = attention(x, segment, torch.ones(1, 9, dtype=torch.bool), 3)[0]
    pool, row, found = StreamingPool(attention, 1, x), torch.tensor([0]), []
    with torch.no_grad():
        for t in range(9):
            pool.add(x[:, t], row)
            if t == 8 or segment[0, t + 1] != segment[0, t]:
                found.append(pool.take(row)[0])
    torch.testing.assert_close(torch.stack(found), expected)


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


def test_vectors_lose_what_all_have_in_common() -> None:
    x = 5.0 + torch.randn(400, 2, 8) * torch.linspace(0.1, 2, 8)
    norm = RunningNorm(2, 8).train()
    for part in x.split(100):  # in any parts
        norm.note(part)
    norm.after_step()
    y = norm(x)
    assert torch.allclose(y.mean(0), torch.zeros(2, 8), atol=1e-4)
    assert torch.allclose(y.std(0), torch.ones(2, 8), atol=1e-2)
    assert torch.equal(norm(x[:1]), y[:1])  # a vector does not see the others
    before = norm.mean.clone()
    norm.note(-x)
    norm.after_step()
    far = -norm.norm(x).mean(0)
    assert torch.allclose(norm.mean, before + 0.1 * (far - before), atol=1e-5)
    norm.after_step()  # nothing seen since
    assert torch.allclose(norm.mean, before + 0.1 * (far - before), atol=1e-5)


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


def test_a_symbols_probabilities_sum_to_one_over_all_its_digits() -> None:
    torch.manual_seed(0)
    head, K = SymbolHead(8, 3, 2), 3
    torch.nn.init.normal_(head.heads[1].weight)
    h = draw(8)
    whole: list[list[int]] = [[a, b] for a in range(K) for b in range(K)]
    symbols = torch.tensor([*whole, [K, NO_DIGIT], [K + 1, NO_DIGIT]])
    nats = head.nats(h.expand(len(symbols), -1), symbols)
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-6)
    padding = torch.tensor([[K + 2, NO_DIGIT]])
    assert head.nats(h[None], padding).item() == 0.0


def test_entropy_of_one_digit_is_that_of_its_distribution() -> None:
    torch.manual_seed(0)
    head = SymbolHead(8, 5, 1)
    h = draw(4, 8)
    logits = head.logits(h, torch.zeros(4, 1, dtype=torch.long))[0]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(head.entropy(h), expected)


def test_frames_around_codes() -> None:
    codes = torch.tensor([[[1, 2], [3, 0]], [[2, 2], [9, 9]]])
    digits, mask = framed(codes, torch.tensor([2, 1]), 4)
    none: Any = NO_DIGIT
    assert digits.tolist() == [
        [[4, none], [1, 2], [3, 0], [5, none]],
        [[4, none], [2, 2], [5, none], [6, none]],
    ]
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]
