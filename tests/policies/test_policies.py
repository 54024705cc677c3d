"""Policies: what they learn, what they choose, and the trees of these sizes."""

from __future__ import annotations

import gc
import math
import random
import time

import pytest
import torch
from torch import Tensor

from hivis.core.policy import Outcome
from hivis.core.tree import DraftTree, ancestor_words
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.tree_growth import Grower, NodeScores
from hivis.errors import HivisError
from hivis.policies.calibration import EDGES, Calibration
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.cost import LEAST_ROUNDS, CostPlanner, CostPolicy
from hivis.policies.times import Times, convex
from tests.helpers.planners import CPU, SIZES, Owner, planner_of, times
from tests.helpers.small_llava import VOCAB


def grow(plan: GrowthPlan, make: torch.Generator, spread: float, kind: str = "") -> DraftTree:
    """A tree over random logits; the larger ``spread``, the surer the drafter."""

    def logits(rows: int) -> Tensor:
        made = torch.randn(1, rows, VOCAB, generator=make) * spread
        if kind == "flat":
            made = torch.zeros_like(made)
        if kind in ("nan", "inf", "-inf"):
            made[torch.rand(made.shape, generator=make) < 0.2] = float(kind)
        if kind == "all nan":
            made[:] = math.nan
        return made

    def step(level: int, tokens: Tensor, before: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return logits(tokens.shape[1]), before

    grower = Grower(plan, 1, "cpu")
    root = torch.tensor([3])
    return grower(plan, root, logits(1)[:, 0], torch.zeros(1, 1), NodeScores(None, None), step)


def walk(tree: DraftTree, make: random.Random, honest: float = 1.0) -> Outcome:
    """Accept every child with its own probability to the power 1 / ``honest``."""
    parents, scores = tree.parents[0].tolist(), tree.scores[0].tolist()
    path = [0]
    while True:
        draw, at = make.random(), path[-1]
        for child in (n for n, above in enumerate(parents) if above == at):
            draw -= math.exp(scores[child] - scores[at]) ** (1 / honest)
            if draw < 0:
                path.append(child)
                break
        else:
            return Outcome(
                tree.nodes,
                tree.max_depth,
                len(path),
                tuple(path),
                tuple(tree.depths[0].tolist()),
                tuple(scores),
            )


def sizes_chosen(policy: CostPolicy, spread: float = 4.0, cycles: int = 60) -> list[tuple]:
    planner, make, luck = planner_of(policy), torch.Generator().manual_seed(1), random.Random(1)
    chosen = []
    for _ in range(cycles):
        tree = grow(planner.choose(), make, spread)
        planner.learn(walk(tree, luck))
        chosen.append((tree.nodes, tree.max_depth))
    return chosen[cycles // 2 :]


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


# --- what is learned


@pytest.mark.parametrize("truth", [lambda p: p, lambda p: p**0.5, lambda p: p**2, lambda p: p / 2])
def test_calibration_finds_planted_acceptance(truth):
    table, luck = Calibration(memory=2000), random.Random(0)
    for _ in range(6000):
        scores = [math.log(luck.uniform(0.01, 1)) for _ in range(10)]
        table.observe(
            scores, {i for i, s in enumerate(scores) if luck.random() < truth(math.exp(s))}
        )
    assert table.table == sorted(table.table)
    for low, high in zip(EDGES[2:], (*EDGES[3:], 1.0), strict=False):
        grid = [low + (high - low) * (i + 0.5) / 50 for i in range(50)]
        (found,) = table.rates([math.log((low + high) / 2)])
        assert found == pytest.approx(mean(map(truth, grid)), abs=0.05)


def test_calibration_begins_with_the_drafters_own_belief_and_forgets():
    table = Calibration(memory=20)
    assert table.rates([math.log(0.55)])[0] == pytest.approx(0.55, abs=0.01)
    for _ in range(100):
        table.observe([math.log(0.55)] * 4, set())
    assert table.rates([math.log(0.55)])[0] < 0.1
    for _ in range(100):
        table.observe([math.log(0.55)] * 4, {0, 1, 2, 3})
    assert table.rates([math.log(0.55)])[0] > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_monotone_whatever_it_sees(seed):
    table, luck = Calibration(memory=luck_memory(seed)), random.Random(seed)
    for _ in range(200):
        scores = [
            luck.choice([0.0, -1e9, math.nan, -math.inf, -luck.random() * 12])
            for _ in range(luck.randrange(60))
        ]
        table.observe(scores, set(luck.sample(range(60), 10)))
        assert table.table == sorted(table.table)
        assert all(0 < rate < 1 for rate in table.table)
    assert table.rates([math.nan, -math.inf]) == [0.0, 0.0]


def luck_memory(seed: int) -> float:
    return (0.01, 1.0, 10.0, 100.0, 1e6)[seed]


# --- what is chosen


@pytest.mark.parametrize("ahead", [False, True])
def test_sizes_follow_the_costs(ahead):
    def chosen(**costs: float) -> list[tuple]:
        return sizes_chosen(CostPolicy(times=times(**costs), ahead=ahead))

    usual = max(set(found := chosen(per_node=5.0)), key=found.count)
    assert usual[0] == 8
    usual = max(set(found := chosen(per_node=0.0, level=0.0)), key=found.count)
    assert usual[0] == 60 and usual[1] >= 10
    usual = max(set(found := chosen(level=50.0)), key=found.count)
    assert usual[1] <= 2


@pytest.mark.parametrize("ahead", [False, True])
def test_dearer_rows_never_make_larger_trees_and_dearer_levels_never_deeper_ones(ahead):
    def cost_of(axis: str, value: float) -> float:
        found = sizes_chosen(CostPolicy(times=times(**{axis: value}), ahead=ahead))
        common = max(set(found), key=found.count) if ahead else None
        part = 0 if axis == "per_node" else 1
        return common[part] if common else mean(size[part] for size in found)

    for axis, slack in (("per_node", 1.5), ("level", 0.5)):
        along = [cost_of(axis, value) for value in (0.0, 0.05, 0.3, 2.0, 20.0)]
        # The trees of two runs see other texts, hence the slack in the means.
        assert all(a >= b - slack for a, b in zip(along, along[1:], strict=False)), along
        assert along[0] > along[-1]


def test_for_the_very_same_pool_dearer_rows_never_mean_more_of_them():
    luck = random.Random(5)
    for _ in range(50):
        ranked = [sorted((-luck.uniform(2, 9) for _ in range(59)), reverse=True)]
        picks = []
        for per_node in (0.0, 0.01, 0.05, 0.2, 1.0, 10.0):
            planner = planner_of(CostPolicy(times=times(per_node), ahead=False))
            picks.append(planner.pick(7, ranked))
        assert picks == sorted(picks, reverse=True)
        assert picks[0] == 60 and picks[-1] == 8


@pytest.mark.parametrize("policy", [CostPolicy(times=times()), ConfidencePolicy()], ids=str)
def test_sure_drafters_get_deeper_trees(policy):
    deep, shallow = (
        mean(depth for _, depth in sizes_chosen(policy, spread)) for spread in (30.0, 1.0)
    )
    assert deep > shallow + 3


def test_an_overconfident_drafter_is_found_out():
    policy = CostPolicy(times=times())
    planner, make, luck = planner_of(policy), torch.Generator().manual_seed(1), random.Random(1)
    depths = []
    for _ in range(150):
        tree = grow(planner.choose(), make, 12.0)
        planner.learn(walk(tree, luck, honest=0.2))
        depths.append(tree.max_depth)
    assert mean(depths[-30:]) < mean(depths[:5]) - 2


def test_confidence_keeps_what_is_above_the_threshold():
    planner = planner_of(ConfidencePolicy(0.2, ahead=False))
    at = math.log(0.2)
    assert planner.deeper(3, torch.tensor([[at - 1, at + 0.01], [at - 2, at - 3]]))
    assert not planner.deeper(3, torch.tensor([[at - 0.01, math.nan], [-math.inf, at - 3]]))
    assert planner.deeper(1, torch.full((1, 4), -math.inf)), "the pool could not fill 8 nodes yet"
    for above, size in ((0, 8), (7, 8), (8, 16), (15, 16), (31, 32), (32, 60), (59, 60)):
        ranked = torch.tensor([[at + 0.1] * above + [at - 0.1] * (59 - above)])
        assert planner.keep(7, ranked) == size
    assert planner.keep(2, torch.full((1, 20), -0.1)) == 16, "no more than the pool holds"


def test_planning_ahead_looks_at_no_score_of_the_growing_tree():
    def unasked(*_: object) -> None:
        raise AssertionError("asked about a tree whose size is settled")

    for policy in (CostPolicy(times=times(), ahead=True), ConfidencePolicy(ahead=True)):
        planner = planner_of(policy)
        planner.deeper = planner.go_on = planner.keep = unasked
        for _ in range(20):
            plan = planner.choose()
            nodes, depth = plan.size
            assert plan.governor is None
            tree = grow(plan, torch.Generator().manual_seed(1), 5.0)
            assert (tree.nodes, tree.max_depth) == (nodes, depth)
            planner.learn(walk(tree, random.Random(1)))
    assert CostPolicy().planner(Owner(), Owner(), torch.device("cuda")).ahead
    assert not CostPolicy().planner(Owner(), Owner(), CPU).ahead


# --- trees


KINDS = ["", "flat", "nan", "inf", "-inf", "all nan"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ahead", [False, True])
def test_trees_are_valid_and_of_a_listed_size_on_hostile_scores(kind, ahead):
    for policy in (CostPolicy(times=times(), ahead=ahead), ConfidencePolicy(ahead=ahead)):
        planner, make = planner_of(policy), torch.Generator().manual_seed(2)
        shapes: dict[tuple[int, int], set] = {}
        for cycle in range(30):
            tree = grow(planner.choose(), make, 1.0 + cycle % 9, kind)
            assert tree.nodes in SIZES and 1 <= tree.max_depth <= 12
            assert torch.equal(tree.ancestors, ancestor_words(tree.parents))
            assert tree.parents[0, 0] == -1 and (tree.depths <= tree.max_depth).all()
            assert all(0 <= int(p) < n for n, p in enumerate(tree.parents[0]) if n)
            pairs = list(zip(tree.parents[0].tolist(), tree.tokens[0].tolist(), strict=True))
            assert len(set(pairs)) == tree.nodes, "siblings are distinct"
            assert not tree.scores.isnan().any() and tree.scores[0, 0] == 0
            shape = tuple(tuple(t.shape) for t in (tree.tokens, tree.ancestors, tree.scores))
            shapes.setdefault((tree.nodes, tree.max_depth), set()).add(shape)
            scores = tuple(tree.scores[0].tolist())
            depths = tuple(tree.depths[0].tolist())
            planner.learn(Outcome(tree.nodes, tree.max_depth, 1, (0,), depths, scores))
        assert all(len(found) == 1 for found in shapes.values()), "data decides no other shape"


def test_a_governed_tree_is_the_fixed_tree_of_its_size():
    planner = planner_of(CostPolicy(times=times()))
    for seed in range(20):
        spread = 1.0 + seed % 7
        mine = grow(planner.choose(), torch.Generator().manual_seed(seed), spread)
        fixed = GrowthPlan(TreeShape(mine.nodes, mine.max_depth, 4))
        theirs = grow(fixed, torch.Generator().manual_seed(seed), spread)
        for name in ("tokens", "parents", "depths", "ancestors", "scores"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


# --- times


def test_times_are_made_convex():
    assert convex({8: 1.0, 16: 1.0, 32: 2.0}) == {8: 1.0, 16: 1.0, 32: 2.0}
    assert convex({60: 5.0, 8: 4.0}) == {8: 4.0, 60: 5.0}
    found = convex({8: 8.0, 16: 10.0, 32: 10.0, 48: 12.0})
    assert found == pytest.approx({8: 8.0, 16: 8 + 2 / 3, 32: 10.0, 48: 12.0})
    luck = random.Random(0)
    for _ in range(50):
        measured = {nodes: luck.uniform(1, 9) for nodes in SIZES}
        found = convex(measured)
        slopes = [(found[b] - found[a]) / (b - a) for a, b in zip(SIZES, SIZES[1:], strict=False)]
        assert all(a <= b + 1e-9 for a, b in zip([0.0, *slopes], slopes, strict=False))
        assert found[8] == measured[8]


def test_a_cycle_is_the_sum_of_its_parts():
    assert times().cycle(16, 7) == pytest.approx(9 + 1.6 + 1 + 6 * 0.5)


def test_measured_times_are_those_of_the_calls():
    planner = CostPolicy().planner(Owner(), Owner(), CPU)
    assert isinstance(planner, CostPlanner) and not planner.wants_times
    make = torch.Generator().manual_seed(0)
    busy = [0.03, 0.0, 0.0]

    def draft(plan: GrowthPlan) -> DraftTree:
        tree = grow(plan, make, 3.0)
        time.sleep(0.002 * tree.max_depth + busy[0])
        return tree

    for round_ in range(3):
        assert (planner.times is None) == (round_ < LEAST_ROUNDS)
        planner.measure(draft, lambda tree: time.sleep(tree.nodes / 4000 + busy[0]), CPU)
        busy.pop(0)
        assert planner.choose().size is None
    assert planner.times.level == pytest.approx(2, rel=0.5)
    for nodes in SIZES:
        assert planner.times.verify[nodes] == pytest.approx(nodes / 4, rel=0.5)


# --- bad arguments


@pytest.mark.parametrize("make", [CostPolicy, ConfidencePolicy])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"sizes": ()}, "^sizes: wanted .*, got"),
        ({"sizes": [8, 16]}, "^sizes: wanted a tuple .*, got"),
        ({"sizes": (16, 8)}, "^sizes: wanted them to increase, got"),
        ({"sizes": (8, 8)}, "^sizes: wanted them to increase, got"),
        ({"sizes": (1, 8)}, "^nodes: wanted 2..256"),
        ({"sizes": (8, 400)}, "^nodes: wanted 2..256"),
        ({"sizes": (8, 60), "depth": 3}, "^nodes: depth 3 and top_k 4 give 36"),
        ({"sizes": (8.0, 16)}, "^nodes: wanted a whole number, got"),
        ({"depth": 0}, "^depth: wanted 1..255, got 0"),
        ({"top_k": 0}, "^top_k of the tree: wanted at least 1"),
        ({"sharpness": math.nan}, "^sharpness: wanted a positive number, got nan"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(make, bad, says):
    with pytest.raises(HivisError, match=says):
        make(**bad)


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, math.nan, "0.1", True, None])
def test_a_bad_threshold_is_named(threshold):
    with pytest.raises(HivisError, match=r"^threshold: wanted a probability in \(0, 1\), got "):
        ConfidencePolicy(threshold)


def test_bad_times_are_named():
    for bad in (math.nan, -1.0, math.inf):
        with pytest.raises(HivisError, match="^times, verify of 8 nodes: wanted milliseconds"):
            Times({8: bad}, 1.0, 1.0)
        with pytest.raises(HivisError, match="^times, level: wanted"):
            Times({8: 1.0}, bad, 1.0)
    with pytest.raises(HivisError, match=r"^times: wanted those of verifying \(8, 16, 32, 60\)"):
        CostPolicy(times=Times({8: 1.0, 16: 2.0}, 1.0, 1.0))
    for name in ("memory", "prior"):
        with pytest.raises(HivisError, match=f"^{name} of the calibration"):
            Calibration(**{name: 0})


def test_what_is_learned_belongs_to_the_pair():
    policy, target, drafter = CostPolicy(), Owner(), Owner()
    planner = policy.planner(target, drafter, CPU)
    assert policy.planner(target, drafter, CPU) is planner
    assert policy.planner(target, Owner(), CPU) is not planner
    assert policy.planner(Owner(), drafter, CPU) is not planner
    assert policy.planner(target, drafter, torch.device("cuda")) is not planner
    assert CostPolicy().planner(target, drafter, CPU) is not planner
    del drafter, planner
    gc.collect()
    assert not policy._kept
    assert policy.planner("has no weak references", target, CPU) is not None
    assert not policy._kept


def test_texts_of_a_batch_count_as_their_mean():
    """Texts alike are worth what one of them is: a cycle's time is spent on all of them at once."""
    planner = planner_of(CostPolicy(times=times(), ahead=False))
    planner.choose()
    sure, unsure = [-0.01] * 60, [-3.0] * 60
    level = planner.times.level
    for scores in (sure, unsure):
        assert planner.pick(6, [scores]) == planner.pick(6, [scores, scores, scores])
    # At five tokens a millisecond none of these guesses pays, however many texts there are.
    planner._tokens, planner._ms = 5.0, 1.0
    guesses = [-1.0] * 60
    assert planner.pick(6, [guesses]) == planner.pick(6, [guesses] * 3) == SIZES[0]
    planner._tokens = 0.05
    # Between one that is sure and one that is not: no more than the first alone would get.
    assert planner.pick(6, [unsure]) <= planner.pick(6, [sure, unsure]) <= planner.pick(6, [sure])
    # Reach 0.06 or so: worth a level for one text, and no more so for three.
    best = [[-2.8]]
    reach = sum(planner.calibration.rates(best[0]))
    planner._tokens, planner._ms = 1.5 * reach / level, 1.0
    assert not planner.go_on(3, best) and not planner.go_on(3, best * 3)
    planner._tokens = 0.5 * reach / level
    assert planner.go_on(3, best) and planner.go_on(3, best * 3)
