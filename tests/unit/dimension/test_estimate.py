"""`estimate` against scikit-dimension, and what must not change its answer."""

import numpy as np
import pytest
import torch
from skdim.datasets import BenchmarkManifolds
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from skdim_oracle import disagreements, reference
from terse.dimension import Estimates, estimate, neighbours
from terse.dimension.gram import multiply
from terse.errors import TerseError

ALL = [
    "mle",
    "mle_inv",
    "mle_lb",
    "twoNN_f10",
    "twoNN_f25",
    "twoNN_mle",
    "mind_ml",
    "mind_ml_uncapped",
    "gride",
    "participation_ratio",
]


def cloud(n: int = 300, d: int = 6, D: int = 64, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """Return a noisy curved d-dimensional sheet in D dimensions, (n, D) float64."""
    random = np.random.default_rng(seed)
    sheet = random.standard_normal((n, d)) @ random.standard_normal((d, D))
    return np.tanh(sheet / 3) + noise * random.standard_normal((n, D))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("D", [5, 64, 700])
def test_equals_scikit_dimension(dtype: type, D: int) -> None:
    points = cloud(400, 5, D).astype(dtype)
    assert disagreements(estimate(points, ALL), reference(points)) == {}


@pytest.fixture(scope="module")
def manifolds() -> dict[str, np.ndarray]:
    return BenchmarkManifolds(random_state=1).generate("all", n=400)


@pytest.mark.parametrize("name", ["M1_Sphere", "M5b_Helix2d", "M9_Affine", "Mn1_Nonlinear"])
def test_equals_scikit_dimension_on_manifolds(name: str, manifolds: dict) -> None:
    assert disagreements(estimate(manifolds[name], ALL), reference(manifolds[name])) == {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_scikit_dimension_on_all_manifolds(seed: int, dtype: type) -> None:
    found = {}
    for name, points in BenchmarkManifolds(random_state=seed).generate("all", n=1000).items():
        points = points.astype(dtype)
        found[name] = disagreements(estimate(points, ALL), reference(points))
    assert len(found) == 24
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_float32_path_equals_the_float64_path() -> None:
    points = cloud(1024, 12, 512).astype(np.float32)
    fast = estimate(points, ALL, distances=True)
    exact = estimate(points, ALL, precision="float64", distances=True)
    assert "float64" not in fast.flags
    assert exact.flags == "float64"
    for name in exact:
        assert fast[name] == pytest.approx(exact[name], rel=1e-6), name
    assert np.array_equal(fast.neighbours[:, 0], exact.neighbours[:, 0])


def captured(kind: str) -> np.ndarray:
    """Return the hidden states (5, 700, 256) float16 of a small model; many tokens repeat."""
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "gpt2": (GPT2Config, GPT2LMHeadModel),
    }[kind]
    torch.manual_seed(0)
    tokens = torch.randint(0, 500, (1, 700))
    settings = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    lm = model(config(vocab_size=500, bos_token_id=0, eos_token_id=0, **settings)).eval()
    with torch.no_grad():
        states = lm(tokens, output_hidden_states=True).hidden_states
    return torch.cat(states).half().numpy()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_equals_scikit_dimension_on_clouds_captured_from_a_model(kind: str) -> None:
    float32 = 0
    for points in captured(kind):
        ours = estimate(points, ALL)
        distinct = np.unique(points, axis=0)
        assert disagreements(ours, reference(distinct)) == {}
        float32 += "float64" not in ours.flags
    assert float32 >= 2  # the fast path is under test, too


def test_participation_ratio_is_that_of_the_covariance() -> None:
    for D in (5, 40, 300):
        points = cloud(200, 4, D)
        points[:, 0] *= 100
        spectrum = np.linalg.eigvalsh(np.cov(points.T))
        expected = spectrum.sum() ** 2 / np.square(spectrum).sum()
        single = estimate(points.astype(np.float32), ["participation_ratio"])
        assert single["participation_ratio"] == pytest.approx(expected, rel=1e-5)


def test_gride_has_scikit_dimensions_errors() -> None:
    import skdim

    points = cloud(300, 5, 20)
    ours = estimate(points, ["gride"])
    for n2 in (2, 4, 8, 16):
        theirs = skdim.id.GRIDE(n1=n2 // 2).fit(points)
        assert ours.errors[f"gride_{n2}"] == pytest.approx(theirs.error_, rel=1e-6)


def test_batch_equals_clouds_alone_and_keeps_their_order() -> None:
    batch = np.stack([cloud(200, d, 40, seed=d) for d in (2, 4, 6)]).astype(np.float32)
    batch[1, 7] = batch[1, 3]  # one cloud that takes another way
    together = estimate(batch, ALL)
    for b, points in enumerate(batch):
        alone = estimate(points, ALL)
        for name in ALL:
            if name != "gride":
                assert together[name][b] == pytest.approx(alone[name], rel=1e-6), name
        assert together.flags[b] == alone.flags
        assert together.n_eff[b] == alone.n_eff
    assert together["mle"].shape == (3,)
    assert together["mle"].dtype == np.float64


@pytest.mark.parametrize("change", ["translate", "rotate", "scale", "shuffle", "huge", "tiny"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_invariances(change: str, dtype: type) -> None:
    random = np.random.default_rng(3)
    points = cloud(250, 4, 30)
    moved = {
        "translate": lambda p: p + random.standard_normal(30) * 20,
        "rotate": lambda p: p @ np.linalg.qr(random.standard_normal((30, 30)))[0],
        "scale": lambda p: p * 7.3,
        "shuffle": lambda p: random.permutation(p),
        "huge": lambda p: p * 1e25 if dtype is np.float32 else p * 1e200,
        "tiny": lambda p: p * 1e-25 if dtype is np.float32 else p * 1e-200,
    }[change](points)
    before, after = estimate(points.astype(dtype), ALL), estimate(moved.astype(dtype), ALL)
    for name in before:
        assert after[name] == pytest.approx(before[name], rel=1e-4 if dtype is np.float32 else 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_input_is_measured_as_it_is(dtype: torch.dtype) -> None:
    points = torch.from_numpy(cloud(300, 5, 64)).to(dtype)
    rounded = points.double()
    assert disagreements(estimate(points, ALL), reference(rounded.numpy())) == {}


def test_numpy_and_torch_and_read_only_and_strided_input_agree() -> None:
    points = cloud(100, 3, 20).astype(np.float32)
    expected = estimate(points, ["mle"])["mle"]
    frozen = points.copy()
    frozen.flags.writeable = False
    swapped = points.astype(">f4")
    wide = np.repeat(points, 2, axis=1)[:, ::2]
    for same in (torch.from_numpy(points), frozen, swapped, wide, np.asfortranarray(points)):
        assert estimate(same, ["mle"])["mle"] == pytest.approx(expected, rel=1e-6)


def test_input_is_left_as_it_was() -> None:
    points = torch.from_numpy(cloud(64, 3, 300)).float()
    before = points.clone()
    estimate(points, ALL, distances=True, local_ids=True)
    assert torch.equal(points, before)


def test_distances_neighbours_and_local_ids() -> None:
    points = cloud(100, 3, 20)
    found = estimate(points, ["mle"], skip_first=2, distances=True, local_ids=True)
    gaps = np.linalg.norm(points[2:, None] - points[None, 2:], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    assert np.isnan(found.distances[:2]).all()
    assert (found.neighbours[:2] == -1).all()
    np.testing.assert_allclose(found.distances[2:], np.sort(gaps, 1)[:, :21], rtol=1e-12)
    np.testing.assert_array_equal(found.neighbours[2:], np.argsort(gaps, 1)[:, :21] + 2)
    assert np.nanmean(found.local_ids) == pytest.approx(found["mle"])
    assert np.isnan(found.local_ids[:2]).all()


def test_theiler_window_leaves_out_neighbours_in_time() -> None:
    walk = np.cumsum(np.random.default_rng(0).standard_normal((200, 10)), 0)
    found = estimate(walk, ["mle"], theiler_window=5, distances=True)
    gaps = np.linalg.norm(walk[:, None] - walk[None], axis=-1)
    time = np.arange(200)
    gaps[np.abs(time[:, None] - time) <= 5] = np.inf
    np.testing.assert_allclose(found.distances, np.sort(gaps, 1)[:, :21], rtol=1e-9)
    assert (np.abs(found.neighbours - time[:, None]) > 5).all()
    assert estimate(walk, ["mle"])["mle"] != pytest.approx(found["mle"], rel=0.01)


def test_theiler_window_counts_time_through_points_left_out() -> None:
    walk = np.cumsum(np.random.default_rng(0).standard_normal((100, 10)), 0)
    walk[40] = walk[10]
    found = estimate(walk, ["mle"], theiler_window=2, distances=True)
    used = found.neighbours[:, 0] >= 0
    assert not used[40]
    assert (np.abs(found.neighbours - np.arange(100)[:, None])[used] > 2).all()


def test_skip_first_equals_cutting_the_points_off() -> None:
    points = cloud(100, 3, 20)
    found = estimate(points, ["mle", "twoNN_f10"], skip_first=10)
    assert dict(found) == dict(estimate(points[10:], ["mle", "twoNN_f10"]))
    assert found.n_eff == 90


def test_compat_shifts_twonn_by_one_rank() -> None:
    points = cloud(200, 3, 10)
    found = estimate(points, ["twoNN_f10", "mle"], compat="skdim-0.3.4")
    gaps = estimate(points, ["mle"], distances=True).distances
    x = np.sort(np.log(gaps[:, 1] / gaps[:, 0]))[:180]
    y = -np.log(1 - np.arange(180) / 200)
    assert found["twoNN_f10"] == pytest.approx((x @ y) / (x @ x), rel=1e-9)
    assert found["mle"] == estimate(points, ["mle"])["mle"]


def test_compat_is_what_that_version_said() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 10))
    found = estimate(points, ["twoNN_f10", "twoNN_f20"], compat="skdim-0.3.4")
    # skdim.id.TwoNN(discard_fraction=...).fit(points).dimension_ of scikit-dimension 0.3.4
    assert found["twoNN_f10"] == pytest.approx(2.9561030913538917, rel=1e-12)
    assert found["twoNN_f20"] == pytest.approx(2.9133167838333316, rel=1e-12)


def test_a_callers_low_matmul_precision_and_autocast_do_not_leak_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def spy(*arguments, **options):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return multiply(*arguments, **options)

    monkeypatch.setattr(neighbours, "multiply", spy)
    monkeypatch.setattr(neighbours, "TILES_ABOVE", 50)  # below, no product of torch is taken
    batch = torch.from_numpy(np.stack([cloud(100, 4, 50), cloud(100, 3, 50)])).float()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            estimate(batch, ["mle"])
            estimate(batch[0], ["mle"])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) >= 3
    assert set(seen) == {("highest", False)}


def test_the_callers_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        estimate(np.stack([cloud(60, 3, 5)] * 3), ["mle"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("points", "settings", "message"),
    [
        (np.zeros(5), {}, r"shape \(5,\)"),
        (np.zeros((0, 5)), {}, "no axis empty"),
        (np.zeros((30, 5), dtype=np.int32), {}, "type torch.int32"),
        (np.zeros((30, 5), dtype=np.complex64), {}, "type torch.complex64"),
        ([[0.0]], {}, "a list"),
        (np.zeros((30, 5)), {"skip_first": -1}, "skip_first is -1"),
        (np.zeros((30, 5)), {"theiler_window": 1.5}, "theiler_window is 1.5"),
        (np.zeros((30, 5)), {"max_norm_multiple": 1.0}, "above 1"),
        (np.zeros((30, 5)), {"precision": "float23"}, "did you mean 'float64'"),
        (np.zeros((30, 5)), {"compat": "skdim-0.3"}, "did you mean 'skdim-0.3.4'"),
    ],
)
def test_wrong_input_is_one_sentence(points, settings: dict, message: str) -> None:
    with pytest.raises(TerseError, match=message):
        estimate(points, ["mle"], **settings)


def test_asking_a_result_for_what_it_lacks_names_what_it_has() -> None:
    found = estimate(cloud(50, 3, 5), ["mle"])
    assert isinstance(found, Estimates)
    with pytest.raises(TerseError, match="allowed: mle"):
        found["mle_inv"]
    assert "mle_inv" not in found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    batch = np.stack([cloud(300, d, 256, seed=d) for d in (3, 5, 9)]).astype(np.float16)
    batch[2, 9] = batch[2, 4]
    batch[0, :, 7] += 3000
    cpu = estimate(batch, ALL, distances=True)
    gpu = estimate(torch.from_numpy(batch).cuda(), ALL, distances=True)
    assert gpu.flags == cpu.flags
    for name in cpu:
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-5)
