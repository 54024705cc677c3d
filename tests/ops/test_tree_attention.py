"""tree_attention: the oracle, hostile caches and trees, and independence of neighbors and threads.

The rule for errors: at most twice that of plain torch in the same dtype, plus 1e-5, both against
the oracle in fp64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hivis import _C, ops
from hivis.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """Arguments of tree_attention, in its order."""

    q: Tensor
    k: Tensor
    v: Tensor
    kv_len: Tensor
    ancestors: Tensor
    scale: float

    def args(self) -> tuple:
        return tuple(vars(self).values())

    def run(self) -> Tensor:
        return ops.tree_attention(*self.args())


# --- Trees, as lists of parents


def chain(nodes: int) -> list[int]:
    return list(range(-1, nodes - 1))


def star(nodes: int) -> list[int]:
    return [-1] + [0] * (nodes - 1)


def full(nodes: int) -> list[int]:
    return [-1] + [(node - 1) // 2 for node in range(1, nodes)]


def ancestor_words(parents: list[int]) -> Tensor:
    """[N, W] i64."""
    words = torch.zeros(len(parents), -(-len(parents) // 64), dtype=torch.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            words[node] = words[parent]
        bit = torch.tensor(1, dtype=torch.int64) << (node % 64)
        words[node, node // 64] |= bit
    return words


def make(
    trees: list[list[int]],
    lengths: list[int],
    heads: int = 2,
    kv_heads: int = 2,
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    spare: int = 5,
) -> Case:
    """A case whose unused cache rows hold NaN. A few scores stand out, so that softmax matters."""
    torch.manual_seed(0)
    batch, nodes = len(trees), len(trees[0])
    rows = max(lengths) + nodes + spare
    q = torch.randn(batch, nodes, heads, dim) * 2
    k, v = torch.randn(2, batch, kv_heads, rows, dim)
    for b, length in enumerate(lengths):
        k[b, :, length + nodes :] = NAN
        v[b, :, length + nodes :] = NAN
    words = torch.stack([ancestor_words(tree) for tree in trees])
    return Case(
        q.to(device, dtype),
        k.to(device, dtype),
        v.to(device, dtype),
        torch.tensor(lengths, dtype=torch.int32, device=device),
        words.to(device),
        dim**-0.5,
    )


def check(case: Case) -> Tensor:
    got = case.run()
    assert got.shape == case.q.shape and got.dtype == case.q.dtype and got.is_contiguous()
    exact = reference.tree_attention(*case.args())
    plain = reference.tree_attention(*case.args(), dtype=case.q.dtype)
    error, allowed = (got.double() - exact).abs().max(), (plain.double() - exact).abs().max()
    assert error <= 2 * allowed + 1e-5
    return got


# --- Against the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (7, 1), (8, 2)])
def test_head_sizes_and_groups(
    device: torch.device, dtype: torch.dtype, dim: int, heads: int, kv_heads: int
):
    check(make([full(9)], [70], heads, kv_heads, dim, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [1, 2, 7, 8, 9, 16, 17, 33, 49, 60, 63, 64, 65, 128, 256])
def test_node_counts(device: torch.device, dtype: torch.dtype, nodes: int):
    check(make([full(nodes)], [11], 1, 1, 64, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [0, 1, 31, 62, 63, 64, 65, 129])
@pytest.mark.parametrize("nodes", [1, 5, 20])
def test_prefix_lengths(device: torch.device, dtype: torch.dtype, nodes: int, length: int):
    check(make([star(nodes)], [length], 2, 1, 64, dtype, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("nodes, length", [(1, 2100), (12, 1012), (12, 1013), (5, 3071)])
def test_contexts_of_more_than_one_split(
    device: torch.device, dtype: torch.dtype, nodes: int, length: int
):
    check(make([chain(nodes)], [length], 4, 2, 64, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tree", [chain, star, full])
@pytest.mark.parametrize("nodes", [13, 70])
def test_shapes_of_trees(device: torch.device, dtype: torch.dtype, tree, nodes: int):
    check(make([tree(nodes)], [40], 2, 1, 64, dtype, device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads, nodes", [(1, 3), (1, 20), (3, 50)])
def test_long_contexts(device: torch.device, dtype: torch.dtype, dim: int, heads: int, nodes: int):
    """Few, many and most rows to a block of the CUDA kernels, each with several splits."""
    check(make([full(nodes)], [700], heads, 1, dim, dtype, device))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the same device for all
)
@given(data=st.data())
def test_any_tree(device: torch.device, data: st.DataObject):
    nodes = data.draw(st.integers(1, 80))
    parents = [-1] + [data.draw(st.integers(0, node - 1)) for node in range(1, nodes)]
    dtype = data.draw(st.sampled_from(DTYPES))
    group = data.draw(st.integers(1, 3))
    length = data.draw(st.integers(0, 150))
    dim = data.draw(st.sampled_from([8, 24, 64, 80]))
    check(make([parents], [length], group, 1, dim, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [3, 20])
def test_ragged_batch(device: torch.device, dtype: torch.dtype, nodes: int):
    trees = [chain(nodes), star(nodes), full(nodes), chain(nodes)]
    check(make(trees, [0, 300, 1500, 64], 2, 1, 64, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_far_apart(device: torch.device, dtype: torch.dtype):
    case = make([full(12)], [200], dtype=dtype, device=device)
    check(replace(case, q=case.q * 30))
    check(replace(case, scale=-case.scale))
    check(replace(case, scale=0.0))


# --- Hostile caches and trees


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [4, 20])
def test_strided_views(device: torch.device, dtype: torch.dtype, nodes: int):
    case = make([full(nodes)], [90], 4, 2, 64, dtype, device)
    rows = case.k.shape[2]
    slab = torch.full((3, 2, 1, 3, rows + 4, 88), NAN, dtype=dtype, device=device)
    k, v = slab[1, 0, :, 1:, 2 : rows + 2, 8:72], slab[1, 1, :, ::2, 3 : rows + 3, 16:80]
    k.copy_(case.k)
    v.copy_(case.v)
    q = torch.full((1, 4, nodes, 72), NAN, dtype=dtype, device=device)[..., 8:].transpose(1, 2)
    q.copy_(case.q)
    assert torch.equal(replace(case, q=q, k=k, v=v).run(), case.run())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_rows_at_any_address(
    request: pytest.FixtureRequest, device: torch.device, dtype: torch.dtype, name: str
):
    """The CUDA kernel for aligned rows rounds differently from the one for all others."""
    case = make([full(20)], [90], 4, 2, 64, dtype, device)
    aligned = getattr(case, name)
    odd = torch.empty(*aligned.shape[:3], 67, dtype=dtype, device=device)[..., 1:65].copy_(aligned)
    got = check(replace(case, **{name: odd}))
    if dtype == torch.float32 or request.node.callspec.params["device"] == "cpu":
        assert torch.equal(got, case.run())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [6, 20, 70])
def test_a_node_sees_no_one_but_its_ancestors(device: torch.device, dtype: torch.dtype, nodes: int):
    case = make([chain(nodes)], [30], 1, 1, 64, dtype, device)
    k, v = case.k.clone(), case.v.clone()
    k[:, :, 32:], v[:, :, 32:] = 1e4, -3e4  # garbage in every node but the first two
    got, wanted = replace(case, k=k, v=v).run(), case.run()
    assert torch.equal(got[:, :2], wanted[:, :2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [5, 20, 70])
def test_padding_gives_zeros_and_may_hold_nan(device: torch.device, dtype: torch.dtype, nodes: int):
    case = make([chain(nodes)], [30], 2, 1, 64, dtype, device)
    words, q, k, v = case.ancestors.clone(), case.q.clone(), case.k.clone(), case.v.clone()
    words[:, nodes - 2 :] = 0
    for t in (k, v):
        t[:, :, 30 + nodes - 2 :] = NAN
    q[:, nodes - 2 :] = NAN
    got = replace(case, q=q, k=k, v=v, ancestors=words).run()
    assert torch.equal(got[:, : nodes - 2], case.run()[:, : nodes - 2])
    assert got[:, nodes - 2 :].count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_beyond_the_last_node_are_ignored(device: torch.device, dtype: torch.dtype):
    case = make([star(10)], [30], dtype=dtype, device=device)
    words = case.ancestors | ~((1 << 10) - 1)
    assert torch.equal(replace(case, ancestors=words).run(), case.run())
    only = torch.full_like(words, ~((1 << 10) - 1))
    assert replace(case, ancestors=only).run().count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_nan_in_the_prefix_reaches_every_node(device: torch.device, dtype: torch.dtype):
    case = make([star(20)], [30], dtype=dtype, device=device)
    case.v[0, 0, 3, 5] = NAN
    got = case.run()
    assert got[0, :, 0, 5].isnan().all()
    assert got.isnan().sum() == 20


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_bit_is_the_sign_bit(device: torch.device, dtype: torch.dtype):
    case = make([chain(64)], [3], 1, 1, 64, dtype, device)
    assert case.ancestors[0, 63, 0] == -1
    check(case)


# --- Determinism


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [2, 20, 65])
def test_a_sequence_does_not_depend_on_its_neighbors(
    device: torch.device, dtype: torch.dtype, nodes: int
):
    case = make([chain(nodes), full(nodes), star(nodes)], [5, 2500, 700], 4, 2, 64, dtype, device)
    together = case.run()
    for b in range(3):
        one = Case(*(t[b : b + 1] for t in case.args()[:5]), case.scale)
        assert torch.equal(together[b : b + 1], one.run())
        rows = int(one.kv_len) + nodes  # no more than it fills
        short = replace(one, k=one.k[:, :, :rows], v=one.v[:, :, :rows])
        assert torch.equal(together[b : b + 1], short.run())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_does_not_matter(dtype: torch.dtype):
    for case in (
        make([full(20)] * 2, [2500, 900], 8, 4, 64, dtype),
        make([full(1)] * 2, [2500, 900], 8, 4, 64, dtype),
    ):
        alone = case.run()
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            for _ in range(3):
                assert torch.equal(case.run(), alone)
        torch.set_num_threads(1)


# --- The op


def test_the_module_function_is_the_same_op(device: torch.device):
    case = make([full(9)], [20], device=device)
    assert torch.equal(_C.tree_attention(*case.args()), case.run())


def test_opcheck(device: torch.device):
    case = make([full(9), chain(9)], [20, 30], 4, 2, 32, device=device)
    torch.library.opcheck(torch.ops.hivis.tree_attention.default, case.args())


GOOD = make([full(9)], [20], 4, 2, 32)
ROWS = GOOD.k.shape[2]
BAD = [
    ({"q": GOOD.q[0]}, "q: wanted 4 dimensions, got 3"),
    ({"q": GOOD.q.double()}, "q: wanted Float, BFloat16 or Half, got Double"),
    ({"q": GOOD.q[:, :, :3]}, r"q: wanted a multiple of 2 heads \(dimension 2\), got 3"),
    (
        {"q": GOOD.q[:, :, :1].expand(-1, -1, 2**23, -1)},
        r"q: wanted at most 8388607 heads \(dimension 2\), got 8388608",
    ),
    ({"q": GOOD.q[:, :0]}, r"q: wanted 1..256 nodes \(dimension 1\), got 0"),
    ({"q": GOOD.q.expand(1, 9, 4, 32)[..., ::2]}, "k: wanted shape"),
    ({"q": GOOD.q.transpose(2, 3).contiguous().transpose(2, 3)}, "q: wanted stride 1 in the last"),
    ({"k": GOOD.k.bfloat16()}, "k: wanted Float, got BFloat16"),
    ({"k": GOOD.k[:, :, :8], "v": GOOD.v[:, :, :8]}, r"k: wanted at least 9 rows .* got 8"),
    ({"k": GOOD.k[:, :0], "v": GOOD.v[:, :0]}, r"k: wanted at least one head .* got 0"),
    ({"kv_len": GOOD.kv_len.to("meta")}, "kv_len: wanted device cpu .as q., got meta"),
    ({"k": GOOD.k.expand(2, -1, -1, -1)}, r"k: wanted shape \[1, Hkv, S, 32\]"),
    ({"v": GOOD.v[:, :, 1:]}, rf"v: wanted shape \[1, 2, {ROWS}, 32\]"),
    ({"kv_len": GOOD.kv_len.long()}, "kv_len: wanted Int, got Long"),
    ({"kv_len": GOOD.kv_len - 21}, rf"kv_len\[0\]: wanted 0..{ROWS - 9} \(S - N\), got -1"),
    ({"kv_len": GOOD.kv_len + 6}, rf"kv_len\[0\]: wanted 0..{ROWS - 9} \(S - N\), got 26"),
    ({"kv_len": torch.full_like(GOOD.kv_len, 2**31 - 1)}, r"kv_len\[0\]: .*got 2147483647"),
    ({"ancestors": GOOD.ancestors.int()}, "ancestors: wanted Long, got Int"),
    ({"ancestors": GOOD.ancestors.expand(1, 9, 2)}, r"ancestors: wanted shape \[1, 9, 1\]"),
]


@pytest.mark.parametrize("change, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(change: dict[str, Tensor], message: str):
    with pytest.raises(RuntimeError, match=message):
        replace(GOOD, **change).run()


@pytest.mark.parametrize("dim", [12, 264])
def test_a_head_dim_that_does_not_fit_is_named(dim: int):
    with pytest.raises(RuntimeError, match=f"q: wanted a multiple of 8 up to 256.*got {dim}"):
        make([full(3)], [4], dim=dim).run()
