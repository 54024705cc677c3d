"""The HiViS drafter against a dense recompute from scratch, and its checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hivis import ops
from hivis.core.handoff import DrafterPrompt
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters import checkpoint
from hivis.drafters.checkpoint import HiViSConfig, random_tensors
from hivis.drafters.hivis import HiViSDrafter
from hivis.errors import HivisError
from tests.helpers.trees import acceptance_of, path_to

CONFIG = HiViSConfig(
    hidden_size=48,
    intermediate_size=80,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    vocab_size=101,
    residual_rows=3,
    attention_bias=True,
)
MAX_ROWS = 160
# fp32, sums in another order: measured about 5e-7 of the norm.
TOLERANCE = 5e-6


def close(got: Tensor, wanted: Tensor) -> bool:
    return bool((got - wanted).norm() <= TOLERANCE * wanted.norm())


def make_tensors(config: HiViSConfig = CONFIG) -> dict[str, Tensor]:
    tensors = random_tensors(config, seed=1, scale=0.12)
    make = torch.Generator().manual_seed(2)
    for tensor in tensors.values():
        if tensor.dim() == 1:
            tensor += torch.randn(tensor.shape, generator=make) * 0.3
    return tensors


def make_drafter(config: HiViSConfig = CONFIG) -> HiViSDrafter:
    make = torch.Generator().manual_seed(3)
    drafter = HiViSDrafter(config, make_tensors(config))
    shape = (config.vocab_size, config.hidden_size)
    drafter.bind(torch.randn(shape, generator=make), torch.randn(shape, generator=make))
    return drafter


class Dense:
    """The drafter without a cache: all rows of one sequence at once, under an explicit mask."""

    def __init__(self, drafter: HiViSDrafter) -> None:
        self.c, self.w = drafter.config, drafter.tensors
        self.embedding = drafter._embedding

    def __call__(
        self, following: Tensor, hidden: Tensor, steps: list[int], positions: Tensor, mask: Tensor
    ) -> Tensor:
        """Rows ``[R]`` tokens, ``[R, E]`` hidden, steps, positions, ``[R, R]`` bool mask."""
        c, w, rows = self.c, self.w, len(steps)
        last = c.residual_rows - 1
        residual = torch.stack([w["residual"][min(step, last)] for step in steps])
        x = torch.cat([self.embedding[following], hidden, residual], 1)
        x = F.linear(x, w["fc.weight"], w["fc.bias"])
        layer = "layers.0."

        def heads(part: str, count: int) -> Tensor:
            name = layer + f"self_attn.{part}_proj"
            out = F.linear(x, w[name + ".weight"], w[name + ".bias"])
            return out.view(rows, count, c.head_dim).transpose(0, 1)

        q, k = heads("q", c.num_attention_heads), heads("k", c.num_key_value_heads)
        v = heads("v", c.num_key_value_heads)
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        group = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        score = (q @ k.transpose(1, 2)) / c.head_dim**0.5
        weight = torch.softmax(score.masked_fill(~mask, float("-inf")), -1)
        attended = (weight @ v).transpose(0, 1).reshape(rows, -1)
        x = x + attended @ w[layer + "self_attn.o_proj.weight"].T
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps)
        normed = normed * w[layer + "post_attention_layernorm.weight"]
        gate = F.silu(normed @ w[layer + "mlp.gate_proj.weight"].T)
        up = normed @ w[layer + "mlp.up_proj.weight"].T
        return x + (gate * up) @ w[layer + "mlp.down_proj.weight"].T

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        half = self.c.head_dim // 2
        angle = positions[:, None] / self.c.rope_theta ** (torch.arange(half) / half)
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def causal(rows: int) -> Tensor:
    return torch.ones(rows, rows, dtype=torch.bool).tril()


class Text:
    """Random sequences: what a target would hand on, and the same per sequence for the oracle."""

    def __init__(self, drafter: HiViSDrafter, batch: int, rows: int = 7) -> None:
        self.drafter, self.batch = drafter, batch
        self.make = torch.Generator().manual_seed(4)
        self.embedding = drafter._embedding
        tokens = self.tokens(batch, rows)
        hidden = self.hidden(batch, rows)
        self.root = self.tokens(batch)
        drafter.prefill(DrafterPrompt(self.embedding[tokens], hidden, rows), self.root, MAX_ROWS)
        following = torch.cat([tokens[:, 1:], self.root[:, None]], 1)
        self.rows = [(following[b], hidden[b]) for b in range(batch)]

    def tokens(self, *shape: int) -> Tensor:
        return torch.randint(0, CONFIG.vocab_size, shape, generator=self.make)

    def hidden(self, *shape: int) -> Tensor:
        return torch.randn(*shape, CONFIG.hidden_size, generator=self.make)

    def commit(self, tree: DraftTree, paths: list[list[int]]) -> None:
        """Accept these nodes, with garbage where nothing may be read."""
        width = tree.max_depth + 1
        path = torch.tensor([p + [p[-1]] * (width - len(p)) for p in paths], dtype=torch.int32)
        path_len = torch.tensor([len(p) for p in paths], dtype=torch.int32)
        next_token = self.tokens(self.batch)
        acceptance = acceptance_of(tree, path, path_len, next_token)
        hidden = self.hidden(self.batch, tree.nodes)
        for b, nodes in enumerate(paths):
            following = tree.tokens[b][nodes[1:]].tolist() + [int(next_token[b])]
            old = self.rows[b]
            self.rows[b] = (
                torch.cat([old[0], torch.tensor(following)]),
                torch.cat([old[1], hidden[b][nodes]]),
            )
            unread = [n for n in range(tree.nodes) if n not in nodes]
            hidden[b, unread] = float("nan")
        self.drafter.commit(hidden, tree, acceptance)
        self.root = next_token

    def check(self) -> None:
        """Lengths and the output at the last row are those of a recompute from scratch."""
        dense = Dense(self.drafter)
        for b, (following, hidden) in enumerate(self.rows):
            rows = len(following)
            assert int(self.drafter.cache.kv_len[b]) == rows
            out = dense(following, hidden, [0] * rows, torch.arange(rows), causal(rows))
            assert close(self.drafter.cache.entries["output"][b], out[-1])


SHAPE = TreeShape(nodes=12, depth=5, top_k=3)


def greedy(batch: int) -> SamplingState:
    return SamplingState.of(SamplingParams(), batch, "cpu")


def grow(text: Text, shape: TreeShape = SHAPE) -> DraftTree:
    position = torch.zeros(text.batch, dtype=torch.int64)
    return text.drafter.grow(text.root, position, greedy(text.batch), GrowthPlan(shape))


def test_folded_bias_equals_the_concatenation() -> None:
    drafter = make_drafter()
    w = drafter.tensors
    make = torch.Generator().manual_seed(5)
    following, hidden = torch.randn(2, 3, 6, CONFIG.hidden_size, generator=make)
    for step in range(5):
        residual = w["residual"][min(step, 2)].expand_as(hidden)
        wanted = torch.cat([following, hidden, residual], -1)
        wanted = F.linear(wanted, w["fc.weight"], w["fc.bias"])
        got = drafter._join(following, hidden, step)
        assert close(got, wanted)


@pytest.mark.parametrize("batch", [1, 3])
def test_prefill_and_commits_equal_a_recompute(batch: int) -> None:
    text = Text(make_drafter(), batch)
    text.check()
    for cycle in range(4):
        tree = grow(text)
        deepest = int(tree.depths[0].argmax())
        nodes = [deepest, 0, cycle + 1][:batch]
        text.commit(tree, [path_to(tree, b, node) for b, node in enumerate(nodes)])
        text.check()


def dense_tree(text: Text, b: int, shape: TreeShape) -> set[tuple[int, ...]]:
    """The tree by EAGLE-2's definition, every level recomputed from scratch under a mask."""
    dense, head = Dense(text.drafter), text.drafter._head
    following, hidden = text.rows[b]
    n, k = len(following), shape.top_k
    steps, positions, mask = [0] * n, torch.arange(n), causal(n)
    root = (int(text.root[b]),)
    outputs = dense(following, hidden, steps, positions, mask)
    frontier = [(root, 0.0, n - 1)]  # path, score, row whose output predicts its children
    pool: dict[tuple[int, ...], float] = {}
    for level in range(1, shape.depth + 1):
        found = []
        for path, total, row in frontier:
            gain = torch.log_softmax(outputs[row] @ head.T, -1)
            for token in gain.topk(k).indices.tolist():
                found.append(((*path, token), total + float(gain[token]), row))
        pool |= {path: total for path, total, _ in found}
        best = sorted(found, key=lambda item: -item[1])[:k]
        frontier = []
        for path, total, above in best:
            row = len(following)
            following = torch.cat([following, torch.tensor([path[-1]])])
            hidden = torch.cat([hidden, outputs[above : above + 1]])
            steps = [*steps, level]
            positions = torch.cat([positions, torch.tensor([n + level - 1])])
            # It sees what its parent sees, and itself. Level 1 sees the committed rows.
            seen = torch.cat([mask[above], torch.tensor([True])])
            mask = torch.cat([F.pad(mask, (0, 1)), seen[None]])
            frontier.append((path, total, row))
        outputs = dense(following, hidden, steps, positions, mask)
    kept = sorted(pool, key=lambda path: -pool[path])[: shape.nodes - 1]
    return {root, *kept}


@pytest.mark.parametrize("shape", [SHAPE, TreeShape(nodes=40, depth=11, top_k=8)], ids=str)
def test_cached_tree_levels_equal_a_dense_recompute(shape: TreeShape) -> None:
    text = Text(make_drafter(), 2)
    for cycle in range(2):
        tree = grow(text, shape)
        for b in range(2):
            paths = [
                tuple(tree.tokens[b][path_to(tree, b, node)].tolist()) for node in range(tree.nodes)
            ]
            assert set(paths) == dense_tree(text, b, shape)
        text.commit(tree, [path_to(tree, b, 5 + cycle) for b in range(2)])


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    text = Text(make_drafter(), 2)
    tree = grow(text)
    alone = make_drafter()
    following, hidden = text.rows[1]
    embeddings = torch.cat([torch.zeros(1, CONFIG.hidden_size), alone._embedding[following[:-1]]])
    alone.prefill(DrafterPrompt(embeddings[None], hidden[None], 7), text.root[1:], MAX_ROWS)
    single = alone.grow(
        text.root[1:], torch.zeros(1, dtype=torch.int64), greedy(1), GrowthPlan(SHAPE)
    )
    assert torch.equal(tree.tokens[1], single.tokens[0])
    assert torch.equal(tree.parents[1], single.parents[0])


def test_noise_is_drawn_at_the_positions_of_the_children() -> None:
    text = Text(make_drafter(), 1)
    plan = GrowthPlan(TreeShape(nodes=4, depth=3, top_k=1))
    sampling = SamplingState.of(SamplingParams(temperature=0.8, seed=9), 1, "cpu")
    tree = text.drafter.grow(text.root, torch.tensor([50]), sampling, plan)
    dense, (following, hidden) = Dense(text.drafter), text.rows[0]
    for level in range(1, 4):
        rows = len(following)
        steps = [0] * 7 + list(range(1, rows - 6))
        out = dense(following, hidden, steps, torch.arange(rows), causal(rows))[-1]
        logits = out @ text.drafter._head.T
        noise = ops.shared_noise(sampling.seed, torch.tensor([50 + level - 1]), 1, 101)[0, 0]
        token = (logits / 0.8 + noise).argmax()
        assert int(tree.tokens[0, level]) == int(token)
        following = torch.cat([following, token[None]])
        hidden = torch.cat([hidden, out[None]])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_no_value_is_read_on_the_host(batch: int, temperature: float) -> None:
    """Fake tensors raise when a value, or a shape that depends on one, is asked for."""
    with FakeTensorMode():
        tensors = {name: torch.empty(shape) for name, shape in CONFIG.shapes().items()}
        drafter = HiViSDrafter(CONFIG, tensors)
        table = torch.empty(CONFIG.vocab_size, CONFIG.hidden_size)
        drafter.bind(table, table)
        rows = torch.empty(batch, 7, CONFIG.hidden_size)
        token = torch.empty(batch, dtype=torch.int64)
        drafter.prefill(DrafterPrompt(rows, rows, 7), token, MAX_ROWS)
        sampling = SamplingState.of(SamplingParams(temperature=temperature), batch, "cpu")
        for _ in range(2):
            tree = drafter.grow(token, token, sampling, GrowthPlan(SHAPE))
            path = torch.empty(batch, SHAPE.depth + 1, dtype=torch.int32)
            acceptance = acceptance_of(tree, path, torch.empty(batch, dtype=torch.int32), token)
            drafter.commit(torch.empty(batch, SHAPE.nodes, CONFIG.hidden_size), tree, acceptance)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            token[0].item()


def test_bfloat16_runs_and_stays_close() -> None:
    exact = make_drafter()
    low = HiViSDrafter(CONFIG, make_tensors())
    low.bind(exact._embedding.bfloat16(), exact._head.bfloat16())
    make = torch.Generator().manual_seed(6)
    rows = torch.randn(1, 7, CONFIG.hidden_size, generator=make)
    token = torch.tensor([5])
    for drafter, dtype in ((exact, torch.float32), (low, torch.bfloat16)):
        drafter.prefill(DrafterPrompt(rows.to(dtype), rows.to(dtype), 7), token, MAX_ROWS)
    said, wanted = low.cache.entries["output"], exact.cache.entries["output"]
    assert said.dtype == torch.bfloat16
    assert (said.float() - wanted).norm() < 0.03 * wanted.norm()
    tree = low.grow(token, token, greedy(1), GrowthPlan(SHAPE))
    assert tree.tokens.shape == (1, SHAPE.nodes)


# Checkpoints


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    config = replace(CONFIG, rows="all", rope_theta=1e6)
    drafter = HiViSDrafter(config, make_tensors())
    drafter.save(tmp_path / "new" / "drafter")
    again = HiViSDrafter.load(tmp_path / "new" / "drafter")
    assert again.config == config and again.rows == "all"
    assert again.tensors.keys() == drafter.tensors.keys()
    assert all(torch.equal(again.tensors[name], drafter.tensors[name]) for name in again.tensors)


def saved(folder: Path) -> Path:
    checkpoint.save(folder, CONFIG, make_tensors())
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def edit_weights(folder: Path, drop: str = "", **extra: Tensor) -> None:
    tensors = make_tensors() | extra
    tensors.pop(drop, None)
    save_file(tensors, folder / "model.safetensors")


def swap_for_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "no such file"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "wanted JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "wanted a JSON object"),
    "unknown type": (lambda f: edit_config(f, type="medusa"), "wanted 'hivis', got 'medusa'"),
    "no type": (lambda f: edit_config(f, type=None), "wanted 'hivis', got None"),
    "entry missing": (lambda f: edit_config(f, head_dim=None), "head_dim"),
    "entry unknown": (lambda f: edit_config(f, layers=2), "layers"),
    "odd head_dim": (lambda f: edit_config(f, head_dim=7), "head_dim: wanted a multiple of 8"),
    "heads": (lambda f: edit_config(f, num_key_value_heads=3), "a multiple of"),
    "size not a number": (lambda f: edit_config(f, hidden_size="48"), "hidden_size: wanted"),
    "rows": (lambda f: edit_config(f, rows="some"), "rows: wanted"),
    "theta": (lambda f: edit_config(f, rope_theta=0), "rope_theta: wanted"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no such file"),
    "a pickle": (swap_for_a_pickle, "pytorch_model.bin, a pickle"),
    "corrupt": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "a safetensors file"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "a safetensors file"),
    "key missing": (lambda f: edit_weights(f, drop="fc.bias"), "wanted fc.bias"),
    "key unexpected": (lambda f: edit_weights(f, lm_head=torch.zeros(1)), "got lm_head too"),
    "shape": (lambda f: edit_config(f, residual_rows=4), "residual: wanted shape [4, 48]"),
    "not floats": (
        lambda f: edit_weights(f, residual=torch.zeros(3, 48, dtype=torch.int64)),
        "wanted floats",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    folder = saved(tmp_path)
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(HivisError) as caught:
        HiViSDrafter.load(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HivisError, match="wanted a directory"):
        HiViSDrafter.load(tmp_path / "nowhere")


@pytest.mark.parametrize("shape", [(101, 47), (100, 48)])
def test_bind_refuses_another_target(shape: tuple[int, int]) -> None:
    drafter = HiViSDrafter(CONFIG, make_tensors())
    right = torch.zeros(101, 48)
    for tables in ((torch.zeros(shape), right), (right, torch.zeros(shape))):
        with pytest.raises(HivisError, match=r"wanted \[101, 48\]"):
            drafter.bind(*tables)


def test_bind_shares_the_tables_and_moves_to_their_dtype() -> None:
    drafter = HiViSDrafter(CONFIG, make_tensors())
    table = torch.randn(101, 48).bfloat16()
    drafter.bind(table, table)
    assert drafter._embedding.data_ptr() == drafter._head.data_ptr() == table.data_ptr()
    assert {weight.dtype for weight in drafter._w.values()} == {torch.bfloat16}
    assert "embed" not in " ".join(drafter.tensors)


def test_limits_are_checked() -> None:
    drafter = make_drafter()
    rows = torch.zeros(1, 7, CONFIG.hidden_size)
    with pytest.raises(HivisError, match="max_rows"):
        drafter.prefill(DrafterPrompt(rows, rows, 7), torch.tensor([1]), 6)
    with pytest.raises(HivisError, match="prompt: wanted at least one row of 'text'"):
        drafter.prefill(DrafterPrompt(rows[:, :0], rows[:, :0], 7), torch.tensor([1]), 6)
    drafter.prefill(DrafterPrompt(rows, rows, 7), torch.tensor([1]), 400)
    with pytest.raises(HivisError, match="at most the vocabulary"):
        plan = GrowthPlan(TreeShape(nodes=4, depth=1, top_k=102))
        drafter.grow(torch.tensor([1]), torch.tensor([7]), greedy(1), plan)
    with pytest.raises(HivisError, match="at most 256, got 260"):
        plan = GrowthPlan(TreeShape(nodes=4, depth=14, top_k=20))
        drafter.grow(torch.tensor([1]), torch.tensor([7]), greedy(1), plan)
