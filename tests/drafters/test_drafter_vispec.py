"""The ViSpec drafter against the paper's formulas, recomputed from scratch without a cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hivis.core.handoff import DrafterPrompt
from hivis.core.kv_cache import KVCache
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.checkpoint import random_tensors
from hivis.drafters.config import ViSpecConfig
from hivis.drafters.load import load_drafter
from hivis.drafters.quantized_linear import Dense
from hivis.drafters.vispec import ViSpecDrafter, image_spans
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.policies.fixed import FixedPolicy
from tests.helpers.reference_drafters import ReferenceDrafter
from tests.helpers.small_drafters import vispec_drafter
from tests.helpers.small_llava import IMAGE_ROWS, IMAGE_TOKEN, random_inputs, random_target
from tests.helpers.trees import acceptance_of, path_to, token_paths

CONFIG = ViSpecConfig(
    hidden_size=48,
    intermediate_size=80,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=101,
    attention_bias=True,
    queries=3,
)
SHAPE = TreeShape(nodes=12, depth=5, top_k=3)
MAX_ROWS = 160
# fp32 against float64: measured about 5e-7 of the norm.
TOLERANCE = 5e-6

# 0 is text, another number that image.
LAYOUTS = {
    "no image": [0] * 7,
    "in the middle": [0] * 4 + [1] * 9 + [0] * 3,
    "after row 0": [0] + [1] * 9 + [0] * 3,
    "at row 0": [1] * 9 + [0] * 3,
    "at row 0, of one row": [1] + [0] * 3,
    "at the end": [0] * 4 + [1] * 9,
    "nothing else": [1] * 9,
    "two": [0] * 3 + [1] * 6 + [0] * 4 + [2] * 6 + [0] * 2,
    "two, one row between": [0] * 3 + [1] * 6 + [0] + [2] * 6 + [0] * 2,
    "two, side by side": [0] * 3 + [1] * 6 + [2] * 6 + [0] * 2,
    "three, two side by side": [0, 1, 1, 1, 2, 2, 2, 0, 0, 3, 3, 3, 0],
    "of one row": [0] * 5 + [1] + [0] * 2,
}


def close(got: Tensor, wanted: Tensor) -> bool:
    return bool((got - wanted).norm() <= TOLERANCE * wanted.norm())


def make_tensors(config: ViSpecConfig = CONFIG) -> dict[str, Tensor]:
    """Random weights everywhere, so that every one of them counts."""
    tensors = random_tensors(config, seed=1, scale=0.12)
    make = torch.Generator().manual_seed(2)
    for name, tensor in tensors.items():
        if tensor.dim() == 1:
            tensor += torch.randn(tensor.shape, generator=make) * 0.3
        elif name in ("img_fc.weight", "imadpt.q"):
            tensor += torch.randn(tensor.shape, generator=make) * 0.15
    return tensors


def make_drafter(config: ViSpecConfig = CONFIG) -> ViSpecDrafter:
    make = torch.Generator().manual_seed(3)
    drafter = ViSpecDrafter(config, make_tensors(config))
    shape = (config.vocab_size, config.hidden_size)
    drafter.bind(torch.randn(shape, generator=make), torch.randn(shape, generator=make))
    return drafter


class Text:
    """Random sequences: what a target would hand on, and the same per sequence for the oracle."""

    def __init__(self, drafter: ViSpecDrafter, layout: list[int], batch: int = 1) -> None:
        self.drafter, self.batch, c = drafter, batch, drafter.config
        self.make = torch.Generator().manual_seed(4)
        embeddings, hidden = self.states(batch, len(layout)), self.states(batch, len(layout))
        self.root = torch.randint(0, c.vocab_size, (batch,), generator=self.make)
        visual = torch.tensor([layout] * batch) > 0
        features = {"pixel_values": torch.zeros(max(layout), 3, 8, 8)}
        self.prompt = DrafterPrompt(
            embeddings, hidden, len(layout), visual=visual, features=features if max(layout) else {}
        )
        drafter.prefill(self.prompt, self.root, MAX_ROWS)
        self.papers = []
        for b in range(batch):
            paper = ReferenceDrafter(
                "vispec",
                drafter.tensors,
                c.num_attention_heads,
                c.num_key_value_heads,
                c.rope_theta,
                c.rms_norm_eps,
                drafter._embedding,
                drafter._head,
            )
            paper.read(embeddings[b], hidden[b], int(self.root[b]), layout)
            self.papers.append(paper)

    def states(self, *shape: int) -> Tensor:
        return torch.randn(*shape, self.drafter.config.hidden_size, generator=self.make)

    def grow(self, shape: TreeShape = SHAPE) -> DraftTree:
        position = torch.zeros(self.batch, dtype=torch.int64)
        return self.drafter.grow(self.root, position, greedy(self.batch), GrowthPlan(shape))

    def commit(self, tree: DraftTree, nodes: list[int]) -> None:
        """Accept the paths to these nodes, with garbage where nothing may be read."""
        paths = [path_to(tree, b, node) for b, node in enumerate(nodes)]
        width = tree.max_depth + 1
        path = torch.tensor([p + [p[-1]] * (width - len(p)) for p in paths], dtype=torch.int32)
        path_len = torch.tensor([len(p) for p in paths], dtype=torch.int32)
        self.root = torch.randint(0, 101, (self.batch,), generator=self.make)
        acceptance = acceptance_of(tree, path, path_len, self.root)
        hidden = self.states(self.batch, tree.nodes)
        for b, taken in enumerate(paths):
            following = tree.tokens[b][taken[1:]].tolist() + [int(self.root[b])]
            self.papers[b].commit(following, hidden[b][taken])
            hidden[b, [n for n in range(tree.nodes) if n not in taken]] = float("nan")
        self.drafter.commit(hidden, tree, acceptance)

    def check(self) -> None:
        for b, paper in enumerate(self.papers):
            assert int(self.drafter.cache.kv_len[b]) == len(paper.rows)
            assert close(self.drafter.cache.entries["output"][b], paper.output())


def greedy(batch: int) -> SamplingState:
    return SamplingState.of(SamplingParams(), batch, "cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_a_prompt_and_what_follows_equal_the_formulas(layout: str, queries: int) -> None:
    """Queries 5: an image of one row takes more rows than it had."""
    text = Text(make_drafter(replace(CONFIG, queries=queries)), LAYOUTS[layout])
    text.check()
    for node in (7, 3):
        tree = text.grow()
        assert token_paths(tree) == text.papers[0].tree(int(text.root), 12, 5, 3)
        text.commit(tree, [node])
        text.check()


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, attention_bias=False, num_key_value_heads=4),
        replace(CONFIG, head_dim=24, rope_theta=1e6),
    ],
    ids=["grouped, bias", "plain", "head_dim apart"],
)
def test_sequences_of_a_batch(config: ViSpecConfig) -> None:
    text = Text(make_drafter(config), LAYOUTS["two"], batch=3)
    text.check()
    for nodes in ([11, 0, 4], [2, 9, 1]):
        tree = text.grow()
        for b, paper in enumerate(text.papers):
            assert token_paths(tree, b) == paper.tree(int(text.root[b]), 12, 5, 3)
        text.commit(tree, nodes)
        text.check()


def test_rows_and_positions_of_an_image() -> None:
    """Spelled out once: rows 4..12 of 16 are an image, the adaptor has 3 queries."""
    text = Text(make_drafter(), LAYOUTS["in the middle"])
    assert text.papers[0].positions == [0, 1, 2, 10, 11, 12, 13, 14, 15]
    assert text.drafter.cache.kv_len.tolist() == [9]
    assert text.papers[0].following == 16


def test_what_the_drafter_does_not_read() -> None:
    """Hidden states of visual rows but the last, and of the row before, are discarded."""
    text = Text(make_drafter(), LAYOUTS["in the middle"])
    wanted = text.drafter.cache.entries["output"].clone()
    hidden = text.prompt.hidden.clone()
    hidden[:, 3:12] = float("nan")
    text.drafter.prefill(replace(text.prompt, hidden=hidden), text.root, MAX_ROWS)
    assert torch.equal(text.drafter.cache.entries["output"], wanted)
    hidden[:, 12] += 1
    text.drafter.prefill(replace(text.prompt, hidden=hidden), text.root, MAX_ROWS)
    assert not torch.allclose(text.drafter.cache.entries["output"], wanted)


def test_an_untrained_img_fc_lets_nothing_of_the_feature_through() -> None:
    tensors = random_tensors(replace(CONFIG, queries=1), seed=1)
    drafter = ViSpecDrafter(replace(CONFIG, queries=1), tensors)
    table = torch.randn(2, 101, 48)
    drafter.bind(table[0], table[1])
    text = Text(drafter, LAYOUTS["in the middle"])
    wanted = drafter.cache.entries["output"].clone()
    embeddings = text.prompt.embeddings.clone()
    embeddings[:, 4:13] += 5
    drafter.prefill(replace(text.prompt, embeddings=embeddings), text.root, MAX_ROWS)
    assert torch.equal(drafter.cache.entries["output"], wanted)


def test_a_prompt_does_not_see_the_image_before() -> None:
    used, fresh = make_drafter(), make_drafter()
    Text(used, LAYOUTS["two"])
    first, second = Text(used, LAYOUTS["no image"]), Text(fresh, LAYOUTS["no image"])
    assert torch.equal(used.cache.entries["output"], fresh.cache.entries["output"])
    assert torch.equal(first.grow().tokens, second.grow().tokens)


def marked(layout: list[int], **features: Tensor) -> DrafterPrompt:
    states = torch.zeros(1, len(layout), 4)
    return DrafterPrompt(
        states, states, len(layout), visual=torch.tensor([layout]) > 0, features=features
    )


@pytest.mark.parametrize(
    ("layout", "features", "spans"),
    [
        ([0, 1, 1, 0], {}, [(1, 3)]),
        ([1, 1, 0, 1], {}, [(0, 2), (3, 4)]),
        ([0, 1, 1, 1, 1], {"pixel_values": torch.zeros(2, 3, 8, 8)}, [(1, 3), (3, 5)]),
        ([0, 1, 1, 1, 1], {"pixel_values": torch.zeros(1, 3, 8, 8)}, [(1, 5)]),
        # Patches of one image in a row, as Qwen's processor makes them: no count of images.
        ([0, 1, 1, 1, 1], {"pixel_values": torch.zeros(16, 588)}, [(1, 5)]),
        ([1, 1, 0, 1], {"image_grid_thw": torch.ones(3, 3)}, [(0, 1), (1, 2), (3, 4)]),
        ([1, 1, 0, 1], {"image_sizes": torch.ones(2, 2)}, [(0, 2), (3, 4)]),
        # Three images in runs of 3 and 2 rows: not all of one size, so runs stay whole.
        ([1, 1, 1, 0, 1, 1], {"image_sizes": torch.ones(3, 2)}, [(0, 3), (4, 6)]),
        ([1, 1, 1, 0, 1], {"image_sizes": torch.ones(4, 2)}, [(0, 1), (1, 2), (2, 3), (4, 5)]),
        ([0, 0], {"pixel_values": torch.zeros(1, 3, 8, 8)}, []),
    ],
)
def test_where_images_lie(layout, features, spans) -> None:
    assert image_spans(marked(layout, **features)) == spans


def test_limits_are_checked() -> None:
    drafter = make_drafter()
    states = torch.zeros(2, 7, 48)
    token = torch.tensor([1, 1])
    with pytest.raises(HivisError, match="max_rows: wanted at least the 7 prompt rows, got 6"):
        drafter.prefill(DrafterPrompt(states, states, 7), token, 6)
    with pytest.raises(HivisError, match="prompt: wanted at least one row"):
        drafter.prefill(DrafterPrompt(states[:, :0], states[:, :0], 7), token, 6)
    visual = torch.zeros(2, 7, dtype=torch.bool)
    visual[1, 3] = True
    with pytest.raises(HivisError, match="prompt: wanted images at the same rows"):
        drafter.prefill(DrafterPrompt(states, states, 7, visual=visual), token, MAX_ROWS)
    with pytest.raises(HivisError, match=r"target's head: wanted \[101, 48\]"):
        make = ViSpecDrafter(CONFIG, make_tensors())
        make.bind(torch.zeros(101, 48), torch.zeros(100, 48))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_no_value_is_read_on_the_host(batch: int, temperature: float) -> None:
    """After a real prefill, all that the drafter holds becomes fake: reading a value raises."""
    drafter = Text(make_drafter(), LAYOUTS["two"], batch).drafter
    assert drafter.cache.entries["gap"].any()
    # One more cycle makes the tables of the tree, constants that come from the host.
    sampling = SamplingState.of(SamplingParams(temperature=temperature), batch, "cpu")
    token = torch.zeros(batch, dtype=torch.int64)
    drafter.grow(token, token, sampling, GrowthPlan(SHAPE))
    with FakeTensorMode() as mode:
        for state in (drafter.__dict__, drafter._rotations.__dict__):
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = mode.from_tensor(value)
        drafter._w = {name: mode.from_tensor(value) for name, value in drafter._w.items()}
        drafter._m = {name: Dense(mode.from_tensor(own.weight)) for name, own in drafter._m.items()}
        made = drafter.cache
        layers, _, _, heads, rows, width = made.kv.shape
        drafter.cache = KVCache(layers, batch, heads, rows, width, made.kv.dtype, "cpu")
        drafter.cache.entries = {name: mode.from_tensor(own) for name, own in made.entries.items()}
        drafter._grower = None
        token = torch.empty(batch, dtype=torch.int64)
        sampling = SamplingState.of(SamplingParams(temperature=temperature), batch, "cpu")
        for _ in range(2):
            tree = drafter.grow(token, token, sampling, GrowthPlan(SHAPE))
            path = torch.empty(batch, SHAPE.depth + 1, dtype=torch.int32)
            acceptance = acceptance_of(tree, path, torch.empty(batch, dtype=torch.int32), token)
            drafter.commit(torch.empty(batch, SHAPE.nodes, 48), tree, acceptance)


def test_bfloat16_runs_and_stays_close() -> None:
    exact = Text(make_drafter(), LAYOUTS["two"])
    low = ViSpecDrafter(CONFIG, make_tensors())
    low.bind(exact.drafter._embedding.bfloat16(), exact.drafter._head.bfloat16())
    prompt = exact.prompt
    low.prefill(
        replace(prompt, embeddings=prompt.embeddings.bfloat16(), hidden=prompt.hidden.bfloat16()),
        exact.root,
        MAX_ROWS,
    )
    wanted = exact.drafter.cache.entries["output"]
    assert low.cache.entries["output"].dtype == torch.bfloat16
    assert (low.cache.entries["output"].float() - wanted).norm() < 0.03 * wanted.norm()


def test_large_scores_of_the_adaptor_keep_float32() -> None:
    """Scores up to 13, as in published checkpoints; rounded to bfloat16 the mean is 7e-3."""
    heads, width = CONFIG.num_attention_heads, CONFIG.head_dim
    errors = []
    for seed in range(5):
        make = torch.Generator().manual_seed(seed)
        image = torch.randn(1, 200, CONFIG.hidden_size, generator=make).bfloat16()
        tensors = make_tensors()
        w = {name: tensor.double() for name, tensor in tensors.items()}
        part = {
            name: F.linear(image.double(), w[f"{name}.weight"], w[f"{name}.bias"])
            for name in ("imadpt.k_proj", "imadpt.v_proj")
        }
        keys, values = (each.unflatten(-1, (heads, width)) for each in part.values())
        score = torch.einsum("qhd,bnhd->bqhn", w["imadpt.q"], keys) * width**-0.5
        factor = 13 / score.abs().max()
        pooled = torch.einsum("bqhn,bnhd->bqhd", (score * factor).softmax(-1), values)
        wanted = F.linear(pooled.flatten(2), w["imadpt.o_proj.weight"])
        tensors["imadpt.q"] = tensors["imadpt.q"] * float(factor)
        drafter = ViSpecDrafter(CONFIG, tensors)
        table = torch.randn(CONFIG.vocab_size, CONFIG.hidden_size, generator=make).bfloat16()
        drafter.bind(table, table)
        got = drafter._adapt(image)
        assert got.dtype == torch.bfloat16
        errors.append(float((got - wanted).norm() / wanted.norm()))
    assert sum(errors) / len(errors) < 5e-3


# Checkpoints


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    drafter = ViSpecDrafter(replace(CONFIG, rope_theta=1e6), make_tensors())
    drafter.save(tmp_path)
    again = load_drafter(tmp_path)
    assert isinstance(again, ViSpecDrafter) and again.config == drafter.config
    assert again.tensors.keys() == drafter.tensors.keys()
    assert all(torch.equal(again.tensors[name], drafter.tensors[name]) for name in again.tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 0}, "queries: wanted a whole number >= 1"),
        ({"queries": 4}, "imadpt.q: wanted shape [4, 4, 16], got [3, 4, 16]"),
        ({"type": "hivis"}, "wanted only known entries, got queries too"),
        ({"type": "eagle"}, "wanted 'hivis' or 'vispec', got 'eagle'"),
        ({"attention_bias": False}, "imadpt.k_proj.bias"),
        ({"attention_bias": "yes"}, "attention_bias: wanted true or false"),
    ],
    ids=str,
)
def test_a_bad_config_is_refused_in_one_line(tmp_path: Path, change, message) -> None:
    ViSpecDrafter(CONFIG, make_tensors()).save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(HivisError) as caught:
        load_drafter(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# Whole texts


@pytest.fixture(scope="module")
def target():
    return random_target()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("queries", [1, 2, 4])
def test_the_text_is_that_of_plain_decoding(target, temperature: float, queries: int) -> None:
    """One drafter, one prompt after another, with 0, 1 and 2 images."""
    drafter = vispec_drafter(queries=queries)
    policies = [FixedPolicy(2, 1, 1), FixedPolicy(16, 5, 4), FixedPolicy(60, 5, 10)]
    for seed in range(6):
        inputs = random_inputs(seed, text=5 + 3 * seed, images=seed % 3)
        sampling = SamplingParams(temperature=temperature, seed=seed, max_new_tokens=30)
        plain = generate(Engine(target), inputs, sampling)
        drafted = generate(Engine(target, drafter, policies[seed // 2]), inputs, sampling)
        assert drafted.tokens == plain.tokens
        text = int((inputs.tokens != IMAGE_TOKEN).sum())
        taken = sum(drafted.statistics.accepted_lengths) + drafted.statistics.cycles
        # Each image's rows became queries - 1; the last cycle may have been cut.
        rows = text + seed % 3 * (queries - 1)
        assert int(drafter.cache.kv_len) >= rows + taken
        assert (seed % 3 == 0) == (int(drafter.cache.entries["gap"]) == 0) and inputs.length == (
            text + seed % 3 * IMAGE_ROWS
        )
