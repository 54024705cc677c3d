"""tree_grow_: the oracle level by level, hostile logits, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hivis import ops
from hivis.core.tree import unpack_bits
from hivis.ops import noise as shared
from hivis.ops import reference

# temperature, sharpness, whether the noise is known
RULES = [(0.0, 1.0, True), (1.0, 1.0, True), (0.7, 1.5, True), (1.3, 0.5, False), (0.0, 2.0, False)]


def first_of(level: int, k: int) -> int:
    """Where a level begins in the pool."""
    return 1 if level == 1 else 1 + k + (level - 2) * k * k


@dataclass(frozen=True)
class State:
    """What tree_grow_ changes, in its order."""

    pool_scores: Tensor
    pool_tokens: Tensor
    pool_parents: Tensor
    nodes: Tensor
    slots: Tensor
    tokens: Tensor
    scores: Tensor
    words: Tensor
    carried: Tensor

    @classmethod
    def of(
        cls,
        batch: int,
        k: int,
        depth: int,
        width: int = 3,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        spare: int = 0,
    ) -> State:
        rows = (depth - 1, batch, k)
        words = max(1, -(-(depth - 1) * k // 64))
        pool = (batch, first_of(depth + 1, k) + spare)

        def full(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.full(shape, -77, dtype=dtype, device=device)

        return cls(
            full(pool, torch.float32),
            full(pool, torch.int64),
            full(pool, torch.int32),
            full(rows, torch.int32),
            full(rows, torch.int64),
            full(rows, torch.int64),
            full(rows, torch.float32),
            full((*rows, words), torch.int64),
            full((*rows, width), dtype),
        )

    def all(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())


@dataclass(frozen=True)
class Growth:
    """A tree to grow on logits that are given for every level: [B, 1, V], then [B, k, V]."""

    logits: list[Tensor]
    k: int
    seed: Tensor
    position: Tensor
    temperature: Tensor
    ends: Tensor
    output: list[Tensor]  # of a drafter, as the logits
    sharpness: float = 1.0
    noise: bool = True

    @property
    def depth(self) -> int:
        return len(self.logits)

    def inputs(self, level: int) -> tuple[Tensor, ...]:
        logits, output = self.logits[level - 1], self.output[level - 1]
        return (logits, self.seed, self.position, self.temperature, self.ends, output)

    def state(self, spare: int = 0) -> State:
        _, _, width = self.output[0].shape
        return State.of(
            len(self.seed), self.k, self.depth, width, self.output[0].dtype, self.seed.device, spare
        )

    def grow(self, state: State, level: int) -> None:
        ops.tree_grow_(*self.inputs(level), *state.all(), level, self.sharpness, self.noise)

    def run(self) -> State:
        state = self.state()
        for level in range(1, self.depth + 1):
            self.grow(state, level)
        return state

    def check(self) -> State:
        """Grows all levels, each of them as the oracle says, and touches nothing else."""
        state = self.state(spare=3)
        for level in range(1, self.depth + 1):
            before = State(*(t.clone() for t in state.all()))
            self.grow(state, level)
            self._check_pool(before, state, level)
            if level < self.depth:
                self._check_frontier(before, state, level)
        return state

    def _check_pool(self, before: State, state: State, level: int) -> None:
        k, first, last = self.k, first_of(level, self.k), first_of(level + 1, self.k)
        for old, new in zip(before.all()[:3], state.all()[:3], strict=True):
            assert torch.equal(old[:, :first], new[:, :first])
            assert torch.equal(old[:, last:], new[:, last:])
        vocab = self.logits[0].shape[2]
        noise = torch.zeros(len(self.seed), vocab)
        if self.noise:
            at = self.position.cpu() + level - 1
            noise = shared.gumbel(self.seed.cpu(), at, 1, vocab)[:, 0]
        logits, temperature = self.logits[level - 1].cpu(), self.temperature.cpu()
        for b in range(logits.shape[0]):
            for slot in range(logits.shape[1]):
                tokens, gains = reference.children(
                    logits[b, slot], noise[b], temperature[b], self.sharpness, k
                )
                here = slice(first + slot * k, first + slot * k + k)
                above, node = 0.0, 0
                if level > 1:
                    above = float(before.scores[level - 2, b, slot])
                    node = int(before.nodes[level - 2, b, slot])
                assert torch.equal(state.pool_tokens[b, here].cpu(), tokens)
                assert (state.pool_parents[b, here] == node).all()
                found = state.pool_scores[b, here].cpu()
                torch.testing.assert_close(
                    found.double(), gains + above, rtol=1e-6, atol=1e-6, equal_nan=False
                )
                assert (found <= above).all()

    def _check_frontier(self, before: State, state: State, level: int) -> None:
        k, first, last = self.k, first_of(level, self.k), first_of(level + 1, self.k)
        for old, new in zip(before.all()[3:], state.all()[3:], strict=True):
            assert torch.equal(old[: level - 1], new[: level - 1])
            assert torch.equal(old[level:], new[level:])
        for b in range(len(self.seed)):
            tokens = state.pool_tokens[b, first:last].cpu()
            ended = torch.isin(tokens, self.ends.cpu())
            scores = state.pool_scores[b, first:last].cpu().masked_fill(ended, -torch.inf)
            places = reference.best_places(scores, k) if level > 1 else torch.arange(k)
            at = (level - 1, b)
            assert torch.equal(state.nodes[at].cpu(), (first + places).int())
            assert torch.equal(state.slots[at].cpu(), places // k)
            assert torch.equal(state.tokens[at].cpu(), tokens[places])
            assert torch.equal(state.scores[at].cpu(), scores[places])
            output = self.output[level - 1][b].cpu()
            assert torch.equal(state.carried[at].cpu(), output[places // k])
            seen = unpack_bits(state.words[at].cpu(), self.k * (self.depth - 1))
            for j in range(k):
                rows = {(level - 1) * k + j}
                if level > 1:
                    above = before.words[level - 2, b, int(places[j]) // k].cpu()
                    rows |= set(unpack_bits(above, seen.shape[1]).nonzero().flatten().tolist())
                assert set(seen[j].nonzero().flatten().tolist()) == rows and len(rows) == level


def make(
    batch: int,
    k: int,
    depth: int,
    vocab: int,
    rule: tuple[float, float, bool] = RULES[0],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 3,
    ends: tuple[int, ...] = (),
    scale: float = 3.0,
    width: int = 3,
) -> Growth:
    """Random logits; sequence b has seed + b and position 100 + 10 b."""
    random = torch.Generator().manual_seed(seed)
    logits = [
        (torch.randn(batch, 1 if level == 1 else k, vocab, generator=random) * scale)
        .to(dtype)
        .to(device)
        for level in range(1, depth + 1)
    ]
    index = torch.arange(batch, device=device)
    output = [torch.randn(*x.shape[:2], width).to(dtype).to(device) for x in logits]
    return Growth(
        logits,
        k,
        seed + index,
        100 + 10 * index,
        torch.full((batch,), rule[0], device=device),
        torch.tensor(ends, dtype=torch.int64, device=device),
        output,
        rule[1],
        rule[2],
    )


# --- Against the oracle


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("vocab, k", [(1, 1), (5, 5), (37, 4), (37, 16), (64, 3), (600, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_oracle(device: torch.device, rule: tuple, vocab: int, k: int, dtype: torch.dtype):
    make(2, k, 4, vocab, rule, dtype, device, ends=(0, 3)).check()


@pytest.mark.parametrize("rule", RULES[:3])
def test_long_rows(device: torch.device, rule: tuple):
    make(1, 4, 2, 32064, rule, torch.bfloat16, device).check()


@pytest.mark.parametrize("rule", [RULES[0], RULES[2]])
def test_a_large_vocabulary(rule: tuple):
    make(1, 10, 3, 152064, rule, torch.bfloat16).check()


@pytest.mark.parametrize(
    "k, depth, vocab", [(1, 14, 50), (4, 13, 30), (16, 8, 40), (33, 3, 70), (100, 3, 101)]
)
def test_shapes(device: torch.device, k: int, depth: int, vocab: int):
    make(1, k, depth, vocab, RULES[1], device=device).check()


def test_one_level_has_no_frontier(device: torch.device):
    state = make(2, 256, 1, 300, RULES[1], device=device).check()
    assert state.nodes.shape == (0, 2, 256)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the same device for all
)
@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(0, 60),
    st.sampled_from(RULES),
    st.integers(0, 2**31),
    st.sampled_from(["", "flat", "rounded", "-inf", "nan", "inf"]),
)
def test_oracle_on_any_logits(
    device: torch.device, k: int, depth: int, more: int, rule: tuple, seed: int, kind: str
):
    """Ties, rows of which little is left, and rows that are no distribution."""
    growth = make(2, k, depth, k + more, rule, device=device, seed=seed, ends=(1,))
    random = torch.Generator().manual_seed(seed)
    for logits in growth.logits:
        if kind == "flat":
            logits.zero_()
        elif kind == "rounded":
            logits.round_()
        elif kind:
            chance = 0.8 if kind == "-inf" else 0.02
            spoilt = torch.rand(logits.shape, generator=random) < chance
            logits.masked_fill_(spoilt.to(device), float(kind))
    growth.check()


# --- What must not matter


def test_logits_may_be_strided(device: torch.device):
    growth = make(2, 3, 3, 50, RULES[1], device=device)
    views = []
    for logits in growth.logits:
        slab = torch.full((2, logits.shape[1] + 1, 77), math.nan, device=device)
        slab[:, :-1, 3:53] = logits
        views.append(slab[:, :-1, 3:53])
    outputs = [torch.cat([x, x], 2)[:, :, 3:] for x in growth.output]
    strided = replace(growth, logits=views, output=outputs)
    for a, b in zip(growth.run().all(), strided.run().all(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("width", [0, 1, 8, 192, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_of_any_width_is_handed_on(device: torch.device, width: int, dtype: torch.dtype):
    make(2, 5, 3, 40, RULES[1], dtype, device, width=width).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_sequences_alone(device: torch.device, dtype: torch.dtype):
    growth = make(4, 5, 4, 300, RULES[1], dtype, device, ends=(7,))
    temperature = torch.tensor([0.0, 1.0, 0.3, 2.0], device=device)
    growth = replace(growth, temperature=temperature)
    together = growth.check()
    for b in range(4):
        one = slice(b, b + 1)
        alone = replace(
            growth,
            logits=[x[one].contiguous() for x in growth.logits],
            seed=growth.seed[one],
            output=[x[one] for x in growth.output],
            position=growth.position[one],
            temperature=temperature[one],
        ).run()
        for i, (a, whole) in enumerate(zip(alone.all(), together.all(), strict=True)):
            of_one = whole[one, : a.shape[1]] if i < 3 else whole[:, one]
            assert torch.equal(a[:, 1:] if i < 3 else a, of_one[:, 1:] if i < 3 else of_one)


@pytest.mark.parametrize("rule", RULES)
def test_threads_do_not_matter(rule: tuple):
    growth = make(1, 6, 3, 100_000, rule)
    growth.logits[1].round_()
    growth.logits[2][0, 2, 77_777] = math.nan
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(growth.run())
    assert results[0].pool_scores.isneginf().sum() == 6
    for other in results[1:]:
        for a, b in zip(results[0].all(), other.all(), strict=True):
            assert torch.equal(a, b)


def test_known_noise_ranks_first_what_the_target_draws(device: torch.device):
    """With the target's own logits, the best child is the draw of tree_accept."""
    growth = make(8, 3, 1, 400, (0.8, 1.0, True), device=device)
    tokens = growth.run().pool_tokens[:, 1]
    zeros, ones = torch.zeros(8, device=device), torch.ones(8, device=device)
    root = torch.zeros(8, 1, dtype=torch.int64, device=device)
    drawn = ops.tree_accept(
        growth.logits[0],
        root,
        root.int() - 1,
        growth.seed,
        growth.position,
        growth.temperature,
        zeros.int(),
        ones,
        zeros,
        0,
    )[2]
    assert torch.equal(tokens, drawn)


# --- Checks


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(logits=torch.zeros(3, 8)), "logits: wanted 3 dimensions, got 2"),
        (dict(logits=torch.zeros(2, 3, 8).double()), "logits: wanted Float, BFloat16 or Half"),
        (dict(logits=torch.zeros(2, 3, 16)[..., ::2]), "logits: wanted stride 1"),
        (dict(logits=torch.zeros(2, 3, 0)), "logits: wanted a vocabulary of 1..1048576, got 0"),
        (dict(logits=torch.zeros(2, 1, 8)), "logits: wanted 3 nodes at level 2, got 1"),
        (dict(logits=torch.zeros(2, 3, 2)), r"nodes: wanted 1..2 children, got 3"),
        (dict(level=0), "level: wanted 1..3, got 0"),
        (dict(level=4), "level: wanted 1..3, got 4"),
        (dict(level=1), "logits: wanted 1 nodes at level 1, got 3"),
        (dict(sharpness=0.0), "sharpness: wanted a finite number above 0, got 0"),
        (dict(sharpness=math.nan), "sharpness: wanted a finite number above 0, got nan"),
        (dict(seed=torch.zeros(1).long()), r"seed: wanted shape \[2\], got \[1\]"),
        (dict(position=torch.zeros(2).int()), "position: wanted Long, got Int"),
        (dict(temperature=torch.zeros(2).double()), "temperature: wanted Float, got Double"),
        (dict(ends=torch.zeros(1, 1).long()), "ends: wanted 1 dimensions, got 2"),
        (dict(pool_scores=torch.zeros(2, 12)), "pool_scores: wanted at least 13 entries, got 12"),
        (dict(pool_tokens=torch.zeros(2, 23).long()), r"pool_tokens: wanted shape \[2, 22\]"),
        (dict(pool_parents=torch.zeros(2, 22)), "pool_parents: wanted Int, got Float"),
        (dict(nodes=torch.zeros(99, 2, 3).int()), "nodes: wanted at most 256 .* got 297"),
        (dict(slots=torch.zeros(2, 3, 2).long().mT), "slots: wanted a contiguous tensor"),
        (dict(scores=torch.zeros(2, 2, 2)), r"scores: wanted shape \[2, 2, 3\]"),
        (dict(output=torch.zeros(2, 3)), "output: wanted 3 dimensions, got 2"),
        (dict(output=torch.zeros(2, 1, 3)), r"output: wanted shape \[2, 3, 3\]"),
        (dict(output=torch.zeros(2, 3, 6)[..., ::2]), "output: wanted stride 1"),
        (dict(output=torch.zeros(2, 3, 4)), r"carried: wanted shape \[2, 2, 3, 4\]"),
        (dict(carried=torch.zeros(2, 2, 3, 3).half()), "carried: wanted Float, got Half"),
        (dict(words=torch.zeros(2, 2, 3, 2).long()), r"words: wanted shape \[2, 2, 3, 1\]"),
    ],
)
def test_bad_input_is_named(device: torch.device, change: dict, message: str):
    growth = make(2, 3, 3, 8, device=device)
    names = ("logits", "seed", "position", "temperature", "ends", "output")
    given = dict(zip(names, growth.inputs(2), strict=True)) | vars(growth.state())
    given |= {"level": 2, "sharpness": 1.0, "noise": True}
    given |= {k: v.to(device) if isinstance(v, Tensor) else v for k, v in change.items()}
    with pytest.raises(RuntimeError, match=message):
        ops.tree_grow_(**given)


@pytest.mark.parametrize(("value", "got"), [(-1.0, "-1"), (math.nan, "nan"), (math.inf, "inf")])
def test_a_bad_temperature_is_named_on_the_cpu(value: float, got: str):
    growth = replace(make(2, 3, 1, 8), temperature=torch.tensor([1.0, value]))
    with pytest.raises(RuntimeError, match=rf"temperature\[1\]: wanted a finite .* got {got}"):
        growth.run()


def test_empty_batch(device: torch.device):
    assert make(0, 3, 2, 8, device=device).run().nodes.shape == (1, 0, 3)


def test_opcheck(device: torch.device):
    growth = make(2, 3, 3, 8, device=device)
    arguments = (*growth.inputs(1), *growth.state().all(), 1, 1.0, True)
    torch.library.opcheck(torch.ops.hivis.tree_grow_.default, arguments)
