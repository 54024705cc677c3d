"""A draft model against itself without a cache, and drafted text against plain text."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hivis.core.handoff import DrafterPrompt
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.target import Inputs
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.draft_vlm import DraftVLM
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.draft_model import HuggingFaceDraft
from hivis.models.families.llava import Llava
from hivis.models.families.text_model import TextModel
from hivis.policies.cost import default_policy
from hivis.policies.fixed import FixedPolicy
from tests.helpers.draft_models import bound, draft_model, small_llama
from tests.helpers.small_llava import IMAGE_TOKEN, VOCAB, random_inputs, random_target
from tests.helpers.trees import acceptance_of, path_to

TEMPERATURES = [0.0, 0.7, 1.0]
POLICIES = [
    FixedPolicy(2, 1, 1),
    FixedPolicy(16, 5, 4),
    FixedPolicy(7, 6, 1),
    FixedPolicy(6, 2, 3),
    FixedPolicy(70, 9, 10),
]
CAPACITY = 220
# fp32, sums in another order, three layers deep.
TOLERANCE = 1e-5


def prompt_of(inputs: Inputs, rows: str) -> DrafterPrompt:
    """What a target would hand on, without its hidden states: they must not be read here."""
    keep = (inputs.tokens[0] != IMAGE_TOKEN) | (rows == "all")
    tokens = inputs.tokens[:, keep]
    nothing = torch.full((*tokens.shape, 3), float("nan"))
    return DrafterPrompt(
        nothing, nothing, inputs.length, tokens, tokens == IMAGE_TOKEN, inputs.features
    )


def state(temperature: float = 0.0, batch: int = 1, seed: int = 3) -> SamplingState:
    return SamplingState.of(SamplingParams(temperature=temperature, seed=seed), batch, "cpu")


class Watched:
    """A drafter whose every draft logit is compared with the model's on the bare token path.

    The model that answers is a copy with transformers' own eager attention, and has no cache.
    """

    def __init__(self, model: HuggingFaceDraft, prompts: list[Inputs]) -> None:
        self.oracle = copy.deepcopy(model.model)
        self.oracle.set_attn_implementation("eager")
        self.model, self.features = model, prompts[0].features
        self.drafter = bound(model, model.vocab_size)
        made = [prompt_of(inputs, model.rows) for inputs in prompts]
        tokens = torch.cat([prompt.tokens for prompt in made])
        nothing = torch.full((*tokens.shape, 3), float("nan"))
        prompt = DrafterPrompt(
            nothing, nothing, prompts[0].length, tokens, features=prompts[0].features
        )
        self.make = torch.Generator().manual_seed(1)
        self.batch = len(prompts)
        self.root = self.random_tokens()
        self.texts = torch.cat([tokens, self.root[:, None]], 1).tolist()
        self.drafter.prefill(prompt, self.root, CAPACITY)
        self.poison()
        self.pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        extend = model.extend

        def watched(tokens: Tensor, depths: Tensor, words: Tensor, above: int = 0) -> Tensor:
            logits = extend(tokens, depths, words, above)
            self.pieces.append((tokens, words, logits))
            return logits

        model.extend = watched  # type: ignore[method-assign]

    def random_tokens(self) -> Tensor:
        ids = min(IMAGE_TOKEN, self.model.vocab_size)
        return torch.randint(3, ids, (self.batch,), generator=self.make)

    @torch.inference_mode()
    def poison(self) -> None:
        """No row behind the valid ones may be read before it is written."""
        for b, length in enumerate(self.model.cache.kv_len.tolist()):
            self.model.cache.kv[:, :, b, :, length:] = float("nan")

    def truth(self, text: list[int]) -> Tensor:
        with torch.inference_mode():
            ids = torch.tensor([text])
            features = self.features if self.model.rows == "all" else {}
            return self.oracle(input_ids=ids, use_cache=False, **features).logits[0, -1]

    def check_root(self) -> None:
        assert self.model.cache.kv_len.tolist() == [len(text) for text in self.texts]
        for b, text in enumerate(self.texts):
            self.close(self.drafter.cache.entries["logits"][b], self.truth(text))

    def close(self, got: Tensor, wanted: Tensor) -> None:
        assert (got - wanted).norm() <= TOLERANCE * wanted.norm()

    def grow(self, plan: GrowthPlan | TreeShape, temperature: float = 0.0) -> DraftTree:
        self.pieces.clear()
        plan = GrowthPlan(plan) if isinstance(plan, TreeShape) else plan
        at = torch.tensor([len(text) for text in self.texts])
        sampling = state(temperature, self.batch)
        tree = self.drafter.grow(self.root, at, sampling, plan)
        assert len(self.pieces) == tree.max_depth - 1
        return tree

    def check_tree(self, tree: DraftTree) -> int:
        """Every expanded row's logits; and every node that has a child was expanded."""
        checked = 0
        for b, text in enumerate(self.texts):
            drawn: list[int] = []
            expanded = {(text[-1],)}
            for tokens, words, logits in self.pieces:
                drawn += tokens[b].tolist()
                for k in range(tokens.shape[1]):
                    path = [t for j, t in enumerate(drawn) if words[b, k, j // 64] >> j % 64 & 1]
                    assert path[-1] == int(tokens[b, k])
                    self.close(logits[b, k], self.truth(text + path))
                    expanded.add((text[-1], *path))
                    checked += 1
            for parent in tree.parents[b, 1:].tolist():
                assert tuple(tree.tokens[b, path_to(tree, b, parent)].tolist()) in expanded
        return checked

    def accept(self, tree: DraftTree, nodes: list[int]) -> None:
        """Accept the paths to these nodes, as ``tree_accept`` would say it."""
        paths = [path_to(tree, b, node) for b, node in enumerate(nodes)]
        width = tree.max_depth + 1
        path = torch.tensor([p + [p[-1]] * (width - len(p)) for p in paths], dtype=torch.int32)
        length = torch.tensor([len(p) for p in paths], dtype=torch.int32)
        self.root = self.random_tokens()
        for b, p in enumerate(paths):
            self.texts[b] += [*tree.tokens[b, p[1:]].tolist(), int(self.root[b])]
        hidden = torch.full((self.batch, tree.nodes, 3), float("nan"))
        self.drafter.commit(hidden, tree, acceptance_of(tree, path, length, self.root))
        self.poison()


def watched(kind: str, images: int) -> Watched:
    seeds = [1, 2, 3] if kind == "text" else [1]
    return Watched(draft_model(kind), [random_inputs(seed, 9, images) for seed in seeds])


@pytest.mark.parametrize("kind, images", [("llava", 0), ("llava", 1), ("llava", 2), ("text", 1)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_drafted_row_is_the_models_own_answer(kind, images, temperature):
    """Trees of several kinds one after another, each behind paths of other lengths."""
    text = watched(kind, images)
    text.check_root()
    shapes = [
        TreeShape(14, 5, 3),
        TreeShape(16, 1, 20),
        TreeShape(9, 2, 4),
        TreeShape(6, 5, 1),
        TreeShape(14, 5, 3),
        TreeShape(14, 5, 3),
    ]
    for cycle, shape in enumerate(shapes):
        tree = text.grow(shape, temperature)
        assert text.check_tree(tree) == text.batch * (shape.depth - 1) * shape.top_k
        deepest = [int(depths.argmax()) for depths in tree.depths]
        # The deepest node of all is a leaf that was never run; the root alone; and others.
        kinds = [deepest, [0] * text.batch, [1 + cycle % 4] * text.batch, [tree.nodes - 1] * 3]
        text.accept(tree, [kinds[(cycle + b) % 4][b] for b in range(text.batch)])
        text.check_root()


def test_more_than_one_word_of_rows():
    text = watched("text", 0)
    shape = TreeShape(100, 12, 15)
    for _ in range(2):
        tree = text.grow(shape)
        assert text.check_tree(tree) == text.batch * 165
        text.accept(tree, [int(depths.argmax()) for depths in tree.depths])
        text.check_root()


def test_the_same_token_under_several_parents_of_a_level():
    """A vocabulary so small that a level holds a token many times: the parent tells them apart."""
    make = torch.Generator().manual_seed(1)
    prompts = [Inputs(torch.randint(3, 8, (1, 9), generator=make), {}) for _ in range(3)]
    text = Watched(HuggingFaceDraft(small_llama(8), TextModel()), prompts)
    for cycle in range(6):
        tree = text.grow(TreeShape(187, 6, 6))  # all candidates
        deep = [int((depths >= 4).nonzero()[9 * cycle]) for depths in tree.depths]
        text.accept(tree, deep)
        text.check_root()


@pytest.mark.parametrize("kind", ["llava", "text"])
def test_the_cache_after_commits_is_that_of_a_fresh_prefill(kind):
    text = watched(kind, 1)
    for cycle in range(4):
        tree = text.grow(TreeShape(20, 6, 4))
        text.accept(tree, [int(depths.argmax()) - cycle % 2 for depths in tree.depths])
    model = draft_model(kind)
    for b, whole in enumerate(text.texts):
        tokens = torch.tensor([whole])
        prompt = DrafterPrompt(
            torch.empty(1, len(whole) - 1, 1),
            torch.empty(0),
            len(whole) - 1,
            tokens[:, :-1],
            features=text.features,
        )
        logits = model.prefill(prompt, tokens[:, -1], CAPACITY)
        text.close(text.drafter.cache.entries["logits"][b], logits[0])
        rows = len(whole)
        fresh = model.cache.kv[:, :, 0, :, :rows]
        text.close(text.model.cache.kv[:, :, b, :, :rows], fresh)


class Until:
    """A governor that ends every tree at one level and one size."""

    def __init__(self, depth: int, nodes: int) -> None:
        self.depth, self.nodes = depth, nodes

    def deeper(self, level: int, best: Tensor) -> bool:
        return level < self.depth

    def keep(self, depth: int, ranked: Tensor) -> int:
        return self.nodes


@pytest.mark.parametrize("depth, nodes", [(1, 3), (2, 12), (4, 30)])
def test_trees_that_end_early_and_trees_that_are_thrown_away(depth, nodes):
    text = watched("text", 0)
    plan = GrowthPlan(TreeShape(60, 7, 4), governor=Until(depth, nodes))
    for _ in range(3):
        text.grow(TreeShape(16, 5, 3))  # never committed
        tree = text.grow(plan)
        assert (tree.max_depth, tree.nodes) == (depth, nodes)
        text.check_tree(tree)
        text.accept(tree, [int(depths.argmax()) for depths in tree.depths])
        text.check_root()


def test_a_commit_runs_two_rows_whatever_was_accepted():
    text = watched("text", 0)
    for node in range(6):
        tree = text.grow(TreeShape(6, 3, 3))
        text.pieces.clear()
        text.accept(tree, [node] * 3)
        assert [tuple(tokens.shape) for tokens, _, _ in text.pieces] == [(3, 2)]
        text.check_root()


# Whole texts


@pytest.fixture(scope="module")
def target():
    return random_target()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("kind", ["llava", "text"])
def test_drafted_text_is_plain_text(target, kind, images, temperature):
    drafter = DraftVLM(draft_model(kind))
    for seed, policy in enumerate([*POLICIES, default_policy()]):
        inputs = random_inputs(seed, 7 + 3 * seed, images)
        params = SamplingParams(temperature=temperature, seed=seed, max_new_tokens=30)
        plain = generate(Engine(target), inputs, params)
        drafted = generate(Engine(target, drafter, policy), inputs, params)
        assert drafted.tokens == plain.tokens
        text = int((inputs.tokens != IMAGE_TOKEN).sum())
        read = text if kind == "text" else inputs.length
        assert drafted.statistics.drafter_rows == read


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_the_target_as_its_own_draft_model_is_always_right(target, temperature, images, depth):
    """Positions, noise, cache and image all have to be right for a chain to be accepted whole."""
    inputs = random_inputs(4, images=images)
    params = SamplingParams(temperature=temperature, max_new_tokens=60)
    drafter = DraftVLM(HuggingFaceDraft(target.model, Llava(), shares_vision=True))
    chain = FixedPolicy(depth + 1, depth, 1)
    found = generate(Engine(target, drafter, chain), inputs, params)
    assert found.tokens == generate(Engine(target), inputs, params).tokens
    assert set(found.statistics.accepted_lengths[:-1]) == {depth}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_sharp_tree_of_the_target_itself_is_accepted_to_its_depth(target, temperature):
    inputs = random_inputs(4, images=1)
    params = SamplingParams(temperature=temperature, max_new_tokens=60)
    drafter = DraftVLM(HuggingFaceDraft(target.model, Llava(), shares_vision=True))
    policy = FixedPolicy(40, 6, 4, sharpness=100.0)
    found = generate(Engine(target, drafter, policy), inputs, params)
    assert set(found.statistics.accepted_lengths[:-1]) == {6}


def test_an_image_changes_what_a_draft_vlm_says():
    drafter, one, other = bound(draft_model("llava")), random_inputs(1), random_inputs(1)
    other.features["pixel_values"].neg_()
    said = []
    for inputs in (one, other):
        drafter.prefill(prompt_of(inputs, "all"), torch.tensor([5]), CAPACITY)
        said.append(drafter.cache.entries["logits"].clone())
    assert (said[0] - said[1]).norm() > 0.01 * said[0].norm()


def test_a_broken_draft_model_costs_speed_alone(target):
    broken = copy.deepcopy(small_llama())
    with torch.no_grad():
        broken.lm_head.weight[7:40] = float("nan")
    params = SamplingParams(temperature=1.0, max_new_tokens=20)
    inputs = random_inputs(2)
    drafted = generate(
        Engine(target, DraftVLM(HuggingFaceDraft(broken, TextModel()))), inputs, params
    )
    assert drafted.tokens == generate(Engine(target), inputs, params).tokens


# Fixed shapes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_no_value_is_read_on_the_host(batch, temperature):
    """Fake tensors raise when a value, or a shape that depends on one, is asked for."""
    shape = TreeShape(12, 5, 3)
    with FakeTensorMode():
        drafter = bound(HuggingFaceDraft(small_llama(), TextModel()))
        rows, token = torch.empty(batch, 7, 1), torch.empty(batch, dtype=torch.int64)
        tokens = torch.empty(batch, 7, dtype=torch.int64)
        drafter.prefill(DrafterPrompt(rows, rows, 7, tokens), token, CAPACITY)
        sampling = state(temperature, batch)
        for _ in range(2):
            tree = drafter.grow(token, token, sampling, GrowthPlan(shape))
            path = torch.empty(batch, shape.depth + 1, dtype=torch.int32)
            acceptance = acceptance_of(tree, path, torch.empty(batch, dtype=torch.int32), token)
            drafter.commit(torch.empty(batch, shape.nodes, 1), tree, acceptance)


# Vocabularies and limits


def test_padding_of_the_draft_vocabulary_is_never_drafted(target):
    """A head that shouts for ids which the target does not have."""
    wide = small_llama(VOCAB + 13)
    with torch.no_grad():
        wide.lm_head.weight[VOCAB:] = wide.lm_head.weight[:13] * 50
    drafter = bound(HuggingFaceDraft(wide, TextModel()))
    inputs = random_inputs(2, images=0)
    drafter.prefill(prompt_of(inputs, "text"), torch.tensor([9]), CAPACITY)
    for temperature in TEMPERATURES:
        plan = GrowthPlan(POLICIES[1].shape)
        tree = drafter.grow(torch.tensor([9]), torch.tensor([9]), state(temperature), plan)
        assert int(tree.tokens.max()) < VOCAB
    params = SamplingParams(temperature=1.0, max_new_tokens=20)
    drafted = generate(Engine(target, drafter), inputs, params)
    assert drafted.tokens == generate(Engine(target), inputs, params).tokens


def test_ids_that_the_draft_model_does_not_know(target):
    """Few enough of them that texts contain the others; none of those is drafted."""
    known = VOCAB // 2
    model = HuggingFaceDraft(small_llama(known), TextModel(), vocab_size=VOCAB)
    drafter = DraftVLM(model)
    for temperature in TEMPERATURES:
        inputs = random_inputs(2, images=1)
        assert int(inputs.tokens.max()) >= known
        params = SamplingParams(temperature=temperature, max_new_tokens=30)
        plain = generate(Engine(target), inputs, params)
        assert generate(Engine(target, drafter), inputs, params).tokens == plain.tokens
        assert max(plain.tokens) >= known
        plan = GrowthPlan(POLICIES[1].shape)
        tree = drafter.grow(torch.tensor([9]), torch.tensor([9]), state(temperature), plan)
        assert int(tree.tokens.max()) < known


def test_a_smaller_vocabulary_is_refused():
    with pytest.raises(HivisError, match=f"vocabulary: wanted the target's {VOCAB} .* got 100"):
        bound(HuggingFaceDraft(small_llama(100), TextModel()))


def test_another_device_is_refused():
    table = torch.empty(VOCAB, 1, device="meta")
    with pytest.raises(HivisError, match="device: wanted the target's, meta, got cpu"):
        DraftVLM(draft_model("text")).bind(table, table)


def test_a_text_longer_than_the_draft_models_positions_is_refused(target):
    drafter = DraftVLM(HuggingFaceDraft(small_llama(positions=64), TextModel()))
    inputs, policy = random_inputs(2, text=12, images=1), FixedPolicy(16, 5, 4)
    params = SamplingParams(max_new_tokens=33)
    with pytest.raises(HivisError, match="at most its 64 positions, got 65"):
        generate(Engine(target, drafter, policy), inputs, params)
    # The image's rows do not count: they are never read.
    params = SamplingParams(max_new_tokens=32)
    assert inputs.length + 32 + 20 > 64
    assert len(generate(Engine(target, drafter, policy), inputs, params).tokens) == 32


def test_limits_of_the_tree():
    drafter = bound(draft_model("text"))
    inputs = random_inputs(2, images=0)
    token = torch.tensor([9])
    drafter.prefill(prompt_of(inputs, "text"), token, CAPACITY)
    with pytest.raises(HivisError, match="top_k of the tree: wanted at most the vocabulary"):
        drafter.grow(token, token, state(), GrowthPlan(TreeShape(4, 1, VOCAB + 1)))
    with pytest.raises(HivisError, match="at most 256, got 260"):
        drafter.grow(token, token, state(), GrowthPlan(TreeShape(4, 14, 20)))


def test_a_prompt_of_images_alone_leaves_a_text_model_the_first_token(target):
    inputs = random_inputs(2, text=2)
    inputs = Inputs(inputs.tokens[:, inputs.tokens[0] == IMAGE_TOKEN], inputs.features)
    params = SamplingParams(max_new_tokens=12)
    drafted = generate(Engine(target, DraftVLM(draft_model("text"))), inputs, params)
    assert drafted.tokens == generate(Engine(target), inputs, params).tokens
    assert drafted.statistics.drafter_rows == 0
