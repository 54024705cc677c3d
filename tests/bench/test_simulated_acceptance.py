"""Simulated acceptance: which lengths are replayed, and that cycles do all other work."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.common.trees import rank_parents
from bench.launches import CountingClock, OperationCounter
from bench.synthetic.accepted_lengths import mean_of, parse_accepted, truncated_geometric
from bench.synthetic.configs import SHAPES, shape_of
from bench.synthetic.cycles import DRAFTED, EAGER, GRAPH, PLAIN, RewindableLoop
from bench.synthetic.generations import hivis_output
from bench.synthetic.random_models import random_prompt
from bench.synthetic.simulated_acceptance import FixedTree, Replay, paths_by_depth
from hivis import ops
from hivis.core.handoff import Acceptance
from hivis.core.sampling import SamplingParams
from hivis.engine.engine import Engine
from hivis.engine.running_batch import RunningBatch
from hivis.errors import HivisError
from hivis.policies.fixed import FixedPolicy
from tests.helpers.captured_graphs import CpuCapturer
from tests.helpers.synthetic_pair import CPU, LENGTHS, SHAPE, pair_of

# --- accepted lengths


@given(depth=st.integers(1, 12), share=st.floats(0, 1))
def test_a_mean_becomes_a_distribution_with_this_mean(depth, share):
    shares = truncated_geometric(share * depth, depth)
    assert len(shares) == depth + 1 and min(shares) >= 0
    assert sum(shares) == pytest.approx(1)
    mean = sum(length * each for length, each in enumerate(shares))
    assert mean == pytest.approx(share * depth, abs=1e-6)
    ratios = [b / a for a, b in zip(shares, shares[1:], strict=False) if a > 1e-9 and b > 1e-9]
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) if ratios else True


@pytest.mark.parametrize("text", ["[10, 0, 30]", '{"0": 10, "2": 30}'])
def test_a_histogram_is_read_as_a_list_or_an_object(tmp_path, text):
    path = tmp_path / "counts.json"
    path.write_text(text)
    found = parse_accepted(str(path), 4)
    assert found.shares == (0.25, 0.0, 0.75, 0.0, 0.0) and found.mean == 1.5
    assert "counts.json" in found.source
    drawn = found.draw(4000)
    assert set(drawn) == {0, 2} and mean_of(drawn) == pytest.approx(1.5, abs=0.1)
    assert drawn == found.draw(4000) != found.draw(4000, seed=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("3", "got 3"),
        ('"abc"', "abc"),
        ("[]", "none above 0"),
        ("[0, 0]", "none above 0"),
        ("[1, -2]", "got -2 at '1'"),
        ("[1, true]", "got true at '1'"),
        ("[1, null]", "got null"),
        ('[1, "2"]', 'got "2"'),
        ("[1, NaN]", "got NaN"),
        ('{"-1": 3}', "at '-1'"),
        ('{"one": 3}', "at 'one'"),
        ('{"1.5": 3}', "at '1.5'"),
        ('{"²": 3}', "at"),
        ("[0, 0, 0, 0, 0, 7]", "wanted lengths up to 4"),
    ],
)
def test_a_bad_histogram_is_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "counts.json"
    path.write_text(text)
    with pytest.raises(HivisError) as error:
        parse_accepted(str(path), 4)
    said = str(error.value)
    assert said.startswith("--accepted") and says in said and "\n" not in said


def test_zero_counts_beyond_the_depth_do_no_harm(tmp_path):
    path = tmp_path / "counts.json"
    path.write_text("[1, 1, 0, 0, 0, 0]")
    assert parse_accepted(str(path), 2).shares == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("text", ["-0.1", "4.1", "nan", "inf", "nowhere.json"])
def test_a_bad_mean_is_refused(text):
    with pytest.raises(HivisError, match="--accepted: wanted a mean"):
        parse_accepted(text, 4)


# --- replay

shapes = st.tuples(st.integers(1, 9), st.integers(2, 12)).flatmap(
    lambda sizes: st.tuples(
        st.integers(sizes[0] + 1, min(64, sizes[1] + (sizes[0] - 1) * sizes[1] ** 2 + 1)),
        st.just(sizes[0]),
        st.just(sizes[1]),
    )
)


@given(shapes)
def test_a_path_to_every_depth_is_a_path_of_the_tree(sizes):
    nodes, depth, top_k = sizes
    if nodes - 1 > sum(top_k**level for level in range(1, depth + 1)):
        return
    parents = rank_parents(nodes, depth, top_k)
    assert len(parents) == nodes and parents[0] == -1
    assert all(0 <= parent < node for node, parent in enumerate(parents) if node)
    assert max(parents.count(parent) for parent in parents[1:]) <= top_k
    paths = paths_by_depth(parents, depth)
    assert len(paths) == depth + 1
    for length, path in enumerate(paths):
        assert len(path) == depth + 1 and path[0] == 0
        assert all(
            parents[below] == above
            for above, below in zip(path, path[1 : length + 1], strict=False)
        )
        assert path == sorted(path) and set(path[length:]) == {path[length]}


def test_a_tree_too_small_for_its_depth_is_refused():
    with pytest.raises(HivisError, match="--nodes: wanted at least 7 to reach depth 6, got 6"):
        rank_parents(6, 6, 10)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.integers(0, 2**16))
def test_a_replayed_acceptance_is_one_that_the_walk_could_have_given(lengths, seed):
    """The real walk, over logits that ask for the tokens of the replayed path, gives the same."""
    fixed = FixedTree.of(SHAPE, CPU)
    replay = Replay(lengths, fixed)
    make = torch.Generator().manual_seed(seed)
    tree = fixed.with_tokens(torch.randperm(97, generator=make)[None, : SHAPE.nodes])
    next_token = torch.randint(97, (1,), generator=make)
    for length in [*lengths, *lengths[:2]]:  # then the list begins again
        nowhere = torch.zeros(1, 7)
        made = replay.replace_path(Acceptance(nowhere, nowhere, next_token, nowhere), tree)
        assert made.path_len.tolist() == [length + 1] and made.next_token is next_token
        logits = torch.zeros(1, SHAPE.nodes, 97)
        for place, node in enumerate(made.path[0, : length + 1].tolist()):
            logits[0, node, made.emitted[0, place]] = 1.0
        one = torch.ones(1)
        found = ops.tree_accept(
            logits,
            tree.tokens,
            tree.parents,
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int64),
            0 * one,
            (0 * one).int(),
            one,
            0 * one,
            6,
        )
        if next_token not in tree.tokens:  # else the walk might go on
            wanted = (made.path, made.path_len, made.next_token, made.emitted)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", ["hivis", "vispec"])
@pytest.mark.parametrize("name", SHAPES)
def test_cycles_accept_what_the_list_says_and_keep_as_many_rows(name, kind):
    pair = pair_of(name, kind)
    inputs = random_prompt(shape_of(name, "tiny"), pair.target, 64)
    loop = pair.loop(DRAFTED, EAGER)
    loop.add(inputs, SamplingParams(max_new_tokens=120, eos_token_ids=()), ())
    before = int(pair.drafter.cache.kv_len)
    done = [loop.cycle()[0].outcome.emitted - 1 for _ in range(len(LENGTHS) + 3)]
    assert done == [*LENGTHS, *LENGTHS[:3]]
    kept = sum(length + 1 for length in done)
    assert pair.target.cache.kv_len.tolist() == [64 + kept]
    assert pair.drafter.cache.kv_len.tolist() == [before + kept]


def test_the_rows_that_are_kept_are_those_of_the_path():
    """The cache after a replayed cycle is that of a plain pass over the path's own tokens."""
    pair = pair_of(lengths=[5])
    inputs = random_prompt(shape_of("llava-1.5-7b", "tiny"), pair.target, 40)
    loop = pair.loop(DRAFTED, EAGER)
    begun = loop.add(inputs, SamplingParams(max_new_tokens=20, eos_token_ids=()), ())
    drawn = loop.cycle()[0].drawn
    kept = pair.target.cache.kv[..., :46, :].clone()
    whole = torch.cat([inputs.tokens, torch.tensor([[begun.token, *drawn[:-1]]])], 1)
    pair.target.prefill(type(inputs)(whole, inputs.features), "none", 50)
    torch.testing.assert_close(pair.target.cache.kv[..., :46, :], kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["hivis", "vispec"])
def test_a_replayed_cycle_waits_for_nothing_and_hardly_costs_more(kind):
    """Two operations look the path up, two count, and two make what is emitted of it."""
    pair = pair_of(kind=kind)
    inputs = random_prompt(shape_of("llava-1.5-7b", "tiny"), pair.target, 40)
    params = SamplingParams(max_new_tokens=60, eos_token_ids=())
    found = []
    for make in (RunningBatch, lambda *args: pair.loop(DRAFTED, EAGER)):
        pair.park()
        loop = make(Engine(pair.target, pair.drafter, FixedPolicy(**asdict(SHAPE))))
        loop.add(inputs, params, ())
        loop.cycle()
        counted = OperationCounter()
        loop.cycles.clock = CountingClock(counted)
        with counted:
            loop.cycle()
        assert counted.waits == 0
        found.append(counted.operations)
    real, replayed = found
    assert replayed - real == {"accept": 6} and not real - replayed


def test_a_loop_rewinds_to_where_it_was():
    pair = pair_of()
    inputs = random_prompt(shape_of("llava-1.5-7b", "tiny"), pair.target, 40)
    params = SamplingParams(max_new_tokens=80, eos_token_ids=())
    plain = RewindableLoop(pair, PLAIN, EAGER, inputs, params)
    drafted = RewindableLoop(pair, DRAFTED, EAGER, inputs, params)
    _, phases, accepted = drafted.round(4)
    assert accepted == LENGTHS[:4] and phases["verify"] > 0
    assert plain.round(5)[2] == [0] * 5
    assert pair.target.cache.kv_len.tolist() == [45]
    assert drafted.round(4)[2] == LENGTHS[4:8]  # the list goes on
    drafted.rewind()
    assert pair.target.cache.kv_len.tolist() == [40]


def test_captured_cycles_accept_what_the_list_says(monkeypatch):
    """As on a GPU: captured once, replayed for every output, read one cycle late."""
    capturer = CpuCapturer()
    monkeypatch.setattr(
        "hivis.engine.cycle.capturer_for", lambda device, wanted: capturer if wanted else None
    )
    monkeypatch.setattr("hivis.engine.running_batch.cycles_in_flight", lambda device: 1)
    pair = pair_of()
    pair.target.row_multiple = pair.drafter.row_multiple = (
        64  # a sequence takes over the memory of the last
    )
    inputs = random_prompt(shape_of("llava-1.5-7b", "tiny"), pair.target, 40)
    params = SamplingParams(max_new_tokens=21, eos_token_ids=())
    wanted = (3, 0, 6, 1, 1, 3)  # the sixth cycle ends the output at its fourth token
    for kind, mode in [(DRAFTED, EAGER), (DRAFTED, GRAPH), (PLAIN, GRAPH), (DRAFTED, GRAPH)] * 2:
        output = hivis_output(pair, kind, mode, inputs, params)
        assert output.tokens == 21 and output.accepted == (wanted if kind == DRAFTED else ())
    assert capturer.captured == 2 and capturer.replayed > 40
    running = RewindableLoop(pair, DRAFTED, GRAPH, inputs, SamplingParams(max_new_tokens=60))
    assert running.round(3)[2] == LENGTHS[:3]
    running.rewind()
    assert pair.target.cache.kv_len.tolist() == [40]
    # One cycle was in flight.
    _, phases, accepted = running.round(4)
    assert accepted == LENGTHS[3:7] and phases["cycle"] > 0
