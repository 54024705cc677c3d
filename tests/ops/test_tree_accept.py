"""tree_accept: the oracle, Hugging Face's warpers, hostile trees, and exactness of the law."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hivis import ops
from hivis.ops import noise, reference

RULES = [  # temperature, top_k, top_p, min_p
    (0.0, 0, 1.0, 0.0),
    (0.3, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (2.0, 0, 1.0, 0.0),
    (1.0, 5, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (0.7, 0, 0.5, 0.0),
    (1.0, 0, 1.0, 0.1),
    (1.3, 50, 0.95, 0.02),
    (1.0, 1, 1e-6, 1.0),
]

RESULTS = ("path", "path_len", "next_token", "emitted")


@dataclass(frozen=True)
class Case:
    """Arguments of tree_accept, in its order."""

    logits: Tensor
    tokens: Tensor
    parents: Tensor
    seed: Tensor
    position: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    max_depth: int

    def args(self) -> tuple:
        return tuple(vars(self).values())

    def run(self) -> tuple[Tensor, ...]:
        return ops.tree_accept(*self.args())

    def oracle(self) -> tuple[Tensor, ...]:
        args = [a.cpu() if isinstance(a, Tensor) else a for a in self.args()]
        vocab = self.logits.shape[-1]
        g = noise.gumbel(args[3], args[4], self.max_depth + 1, vocab)
        return reference.tree_accept(*args[:3], g, *args[5:])

    def check(self) -> tuple[Tensor, ...]:
        """Runs the op, wherever the logits are; its result on the CPU, once it is the oracle's."""
        got, wanted = tuple(a.cpu() for a in self.run()), self.oracle()
        for name, a, b in zip(RESULTS, got, wanted, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b), f"{name}: {a} is not {b}"
        return got


def make(
    logits: Tensor,
    tokens: list | Tensor,
    parents: list | Tensor,
    rule: tuple[float, int, float, float] = RULES[0],
    max_depth: int = 5,
    seed: int = 3,
    position: int = 100,
) -> Case:
    """A case from one rule for all B sequences; sequence b has seed + b and position + 10 b.

    Everything goes where the logits are.
    """
    batch, device = logits.shape[0], logits.device

    def full(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((batch,), value, dtype=dtype, device=device)

    return Case(
        logits,
        torch.as_tensor(tokens, device=device).reshape(batch, -1).long(),
        torch.as_tensor(parents, device=device).reshape(batch, -1).int(),
        seed + torch.arange(batch, device=device),
        position + 10 * torch.arange(batch, device=device),
        full(rule[0], torch.float32),
        full(rule[1], torch.int32),
        full(rule[2], torch.float32),
        full(rule[3], torch.float32),
        max_depth,
    )


def random_parents(nodes: int, generator: torch.Generator) -> list[int]:
    return [-1] + [int(torch.randint(n, (), generator=generator)) for n in range(1, nodes)]


def drawn_tree(case: Case) -> Case:
    """The same tree, some children now carrying the drawn token, so that the walk is long."""
    tokens = case.tokens.clone()
    for _ in range(case.max_depth + 1):
        path, path_len, token, _ = replace(case, tokens=tokens).run()
        for b in range(tokens.shape[0]):
            node = path[b, path_len[b] - 1]
            children = (case.parents[b] == node).nonzero().flatten()
            if len(children) and path_len[b] <= case.max_depth:
                tokens[b, children[len(children) // 2]] = token[b]
    return replace(case, tokens=tokens)


# --- Against the oracle


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("vocab", [1, 2, 5, 31, 64, 4096, 32064])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_oracle(device: torch.device, rule: tuple, vocab: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(vocab)
    batch, nodes = 2, 5 if vocab > 10_000 else 12
    logits = (torch.randn(batch, nodes, vocab, generator=generator) * 3).to(device, dtype)
    parents = [random_parents(nodes, generator) for _ in range(batch)]
    tokens = torch.randint(vocab, (batch, nodes), generator=generator)
    case = drawn_tree(make(logits, tokens, parents, rule, max_depth=3))
    path, path_len, *_ = case.check()
    assert path_len.max() > 1 and (path[:, 0] == 0).all()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the same device for all
)
@given(
    st.integers(1, 20),
    st.integers(1, 80),
    st.integers(0, 6),
    st.sampled_from(RULES),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_oracle_on_any_tree(
    device: torch.device, nodes: int, vocab: int, depth: int, rule: tuple, seed: int, flat: bool
):
    """Rounded logits tie often, which the thresholds and the argmax must both survive."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, nodes, vocab, generator=generator) * 2
    if flat:
        logits = logits.round()
    logits[torch.rand(logits.shape, generator=generator) < 0.05] = -torch.inf
    parents = [random_parents(nodes, generator) for _ in range(2)]
    tokens = torch.randint(-1, min(vocab, 4), (2, nodes), generator=generator)
    drawn_tree(make(logits.to(device), tokens, parents, rule, depth, seed=seed)).check()


# --- Against Hugging Face


@pytest.mark.parametrize("rule", [r for r in RULES if r[0] > 0])
def test_candidates_are_those_of_hugging_face(device: torch.device, rule: tuple):
    from transformers.generation import logits_process as hf

    temperature, top_k, top_p, min_p = rule
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(1)) * 3
    scores = hf.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k > 0:
        scores = hf.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = hf.TopPLogitsWarper(top_p)(None, scores)
    if min_p > 0:
        scores = hf.MinPLogitsWarper(min_p)(None, scores)
    for row, score in zip(logits, scores, strict=True):
        assert torch.equal(reference.candidates(row, *rule), score > -torch.inf)
    # Perturbed argmax over Hugging Face's scores = the op's draw, for many draws of each row.
    draws = 64
    rows = logits.to(device).repeat_interleave(draws, 0)[:, None]
    case = make(rows, [[0]] * len(rows), [[-1]] * len(rows), rule, max_depth=0)
    g = ops.shared_noise(case.seed, case.position, 1, 300)[:, 0].cpu()
    assert torch.equal(case.run()[2].cpu(), (scores.repeat_interleave(draws, 0) + g).argmax(-1))


@pytest.mark.parametrize("rule", [(3.0, 7, 1.0, 0.0), (3.0, 0, 0.8, 0.0), (3.0, 0, 1.0, 0.2)])
def test_every_candidate_is_drawn_and_nothing_else(rule: tuple):
    """At a high temperature few draws visit every candidate, those at the threshold too."""
    for trial in range(20):
        row = torch.randn(31, generator=torch.Generator().manual_seed(trial)) * 2
        case = make(row.expand(2000, 1, 31), [[0]] * 2000, [[-1]] * 2000, rule, max_depth=0)
        drawn = torch.bincount(case.run()[2], minlength=31) > 0
        assert torch.equal(drawn, reference.candidates(row, *rule))


def test_ties_at_the_threshold_stay_together(device: torch.device):
    row = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    ties = torch.tensor([True, False, True, True, True, False])
    for rule in [(4.0, 2, 1.0, 0.0), (4.0, 0, 0.3, 0.0), (4.0, 4, 0.5, 0.0)]:
        rows = row.to(device).expand(500, 1, 6)
        case = make(rows, [[0]] * 500, [[-1]] * 500, rule, max_depth=0)
        assert torch.equal(torch.bincount(case.run()[2].cpu(), minlength=6) > 0, ties)
        assert torch.equal(reference.candidates(row, *rule), ties)
    flat = torch.zeros(1, 1, 200_000, device=device)
    assert 0 <= make(flat, [[0]], [[-1]], (1.0, 10, 0.5, 0.5), 0).run()[2].item() < 200_000


# --- Hostile trees and logits


def chain_logits(device: torch.device, vocab: int = 16) -> Tensor:
    """[1, 16, V]: node n's argmax is token n + 1."""
    logits = torch.zeros(1, 16, vocab, device=device)
    logits[0, torch.arange(15), torch.arange(1, 16)] = 9.0
    return logits


def test_one_node(device: torch.device):
    case = make(chain_logits(device)[:, 3:4], [[7]], [[-1]], max_depth=0)
    assert [t.tolist() for t in case.check()] == [[[0]], [1], [4], [[4]]]


def test_a_chain_longer_than_max_depth_stops_and_stays_exact(device: torch.device):
    case = make(chain_logits(device), list(range(16)), list(range(-1, 15)), max_depth=4)
    path, path_len, token, emitted = case.check()
    assert path.tolist() == [[0, 1, 2, 3, 4]] and path_len.tolist() == [5]
    assert token.tolist() == [5]  # what node 5 carries, too
    assert emitted.tolist() == [[1, 2, 3, 4, 5]]


def test_path_repeats_the_last_node(device: torch.device):
    tokens = [0, 1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]
    logits = chain_logits(device)
    path, path_len, token, emitted = make(logits, tokens, list(range(-1, 15)), max_depth=5).check()
    assert path.tolist() == [[0, 1, 2, 2, 2, 2]] and path_len.tolist() == [3]
    assert token.tolist() == [3] and emitted.tolist() == [[1, 2, 3, 3, 3, 3]]


def test_a_star_and_duplicate_siblings(device: torch.device):
    """The first child with the drawn token wins; its own children are the ones that count."""
    case = make(
        chain_logits(device), [0, 5, 1, 1, 4, 3, 3] + [-1] * 9, [-1, 0, 0, 0, 3, 2, 3] + [0] * 9
    )
    path, path_len, token, emitted = case.check()
    assert path[0, :3].tolist() == [0, 2, 5] and path_len.tolist() == [3]
    assert token.tolist() == [6] and emitted.tolist() == [[1, 3, 6, 6, 6, 6]]


def test_padding_nodes_never_match(device: torch.device):
    # The flag is -1 and so is the padding's token.
    logits = torch.full((1, 3, 4), -torch.inf, device=device)
    _, path_len, token, emitted = make(logits, [0, -1, -1], [-1, 0, 0]).check()
    assert path_len.tolist() == [1] and token.tolist() == [-1] and (emitted == -1).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, "all -inf"])
def test_unusable_logits_are_flagged_where_visited_only(device: torch.device, rule, dtype, bad):
    vocab = 200
    logits = torch.randn(1, 4, vocab, generator=torch.Generator().manual_seed(2)).to(device, dtype)
    case = make(logits, [0, 1, 2, 3], [-1, 0, 1, 0], rule, max_depth=3)
    case = drawn_tree(case)
    wanted = path, path_len, token, emitted = case.check()
    assert token >= 0 and path_len >= 2
    last = path[0, path_len - 1].item()
    unvisited = next(n for n in range(4) if n not in path[0].tolist())

    def spoil(node: int) -> Case:
        spoilt = logits.clone()
        if bad == "all -inf":
            spoilt[0, node] = -torch.inf
        else:
            spoilt[0, node, 133] = bad
        return replace(case, logits=spoilt)

    for a, b in zip(spoil(unvisited).check(), wanted, strict=True):
        assert torch.equal(a, b)
    spoilt_path, spoilt_len, flag, spoilt_emitted = spoil(last).check()
    assert torch.equal(spoilt_path, path) and torch.equal(spoilt_len, path_len) and flag == -1
    before = int(path_len) - 1
    assert torch.equal(spoilt_emitted[:, :before], emitted[:, :before])
    assert (spoilt_emitted[:, before:] == -1).all()


def test_temperature_that_overflows_the_logits_is_flagged(device: torch.device):
    logits = torch.ones(1, 1, 3, device=device)
    assert make(logits, [[0]], [[-1]], (1e-40, 0, 1.0, 0.0)).check()[2] == -1


def test_one_finite_logit_is_drawn(device: torch.device):
    logits = torch.full((1, 1, 100), -torch.inf, device=device)
    logits[0, 0, 70] = -1e30
    for rule in RULES:
        assert make(logits, [[0]], [[-1]], rule).check()[2] == 70


def test_equal_logits_give_the_lowest_token(device: torch.device):
    logits = torch.zeros(1, 1, 300, device=device)
    logits[0, 0, [65, 66, 130, 299]] = 1.0
    assert make(logits, [[0]], [[-1]]).check()[2] == 65
    zeros = torch.tensor([[[-0.0, 0.0]]], device=device)
    assert make(zeros, [[0]], [[-1]]).check()[2] == 0


@pytest.mark.parametrize("rule", RULES)
def test_views_are_read_in_place(device: torch.device, rule: tuple):
    generator = torch.Generator().manual_seed(4)
    wide = torch.full((4, 9, 150), math.nan)
    wide[::2, 1:8, 7:107] = torch.randn(2, 7, 100, generator=generator) * 2
    view = wide.to(device)[::2, 1:8, 7:107]
    parents = [random_parents(7, generator) for _ in range(2)]
    case = drawn_tree(make(view, torch.randint(100, (2, 7)), parents, rule))
    got = case.check()
    for a, b in zip(got, replace(case, logits=view.contiguous()).check(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_equals_its_sequences_alone(device: torch.device, dtype: torch.dtype):
    """Every sequence with its own rule, seed and position, whatever its neighbors do."""
    generator = torch.Generator().manual_seed(5)
    batch, nodes, vocab = len(RULES), 9, 257
    logits = (torch.randn(batch, nodes, vocab, generator=generator) * 3).to(device, dtype)
    parents = [random_parents(nodes, generator) for _ in range(batch)]
    case = make(logits, torch.randint(vocab, (batch, nodes), generator=generator), parents)
    columns = [torch.tensor(c, device=device) for c in zip(*RULES, strict=True)]
    case = drawn_tree(
        replace(
            case,
            temperature=columns[0].float(),
            top_k=columns[1].int(),
            top_p=columns[2].float(),
            min_p=columns[3].float(),
        )
    )
    together = case.check()
    for b in range(batch):
        one = Case(*(a[b : b + 1] if isinstance(a, Tensor) else a for a in case.args())).run()
        for a, whole in zip(one, together, strict=True):
            assert torch.equal(a[0].cpu(), whole[b])


@pytest.mark.parametrize("rule", RULES)
def test_threads_do_not_matter(rule: tuple):
    """A large vocabulary is split over threads, ties and NaN included."""
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(1, 3, 100_000, generator=generator).mul(4).round()
    case = drawn_tree(make(logits, [0, 0, 0], [-1, 0, 1], rule, max_depth=2))
    spoilt = logits.clone()
    spoilt[0, 0, 77_777] = math.nan
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(case.run())
        assert replace(case, logits=spoilt).run()[2] == -1
    assert results[0][1] == 3
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# --- Exactness


@pytest.mark.parametrize("rule", [(1.0, 0, 1.0, 0.0), (1.5, 12, 0.9, 0.0), (0.8, 0, 0.8, 0.05)])
def test_emitted_tokens_follow_the_filtered_softmax_whatever_is_drafted(rule: tuple):
    """Good, useless and random children leave the emitted token the same, and its law exact."""
    vocab, draws = 24, 1 << 15
    generator = torch.Generator().manual_seed(6)
    row = torch.randn(vocab, generator=generator) * 1.5
    logits = row.expand(draws, 4, vocab)
    drafts = [
        torch.randint(vocab, (draws, 4), generator=generator),
        torch.tensor([0, *row.topk(3).indices]).expand(draws, 4).contiguous(),
        torch.full((draws, 4), -1),
    ]
    emitted = []
    for tokens in drafts:
        case = make(logits, tokens, [[-1, 0, 0, 0]] * draws, rule, max_depth=1)
        path, path_len, token, drawn = case.run()
        child = tokens.gather(1, path[:, 1:].long())[:, 0]
        emitted.append(torch.where(path_len > 1, child, token))
        assert torch.equal(drawn, torch.stack([emitted[-1], token], 1))
    assert torch.equal(emitted[0], emitted[2]) and torch.equal(emitted[1], emitted[2])
    keep = reference.candidates(row, *rule)
    p = (row.double() / rule[0]).masked_fill(~keep, -torch.inf).softmax(0)
    counts = torch.bincount(emitted[0], minlength=vocab)
    assert counts[~keep].sum() == 0
    expected = p[keep] * draws
    excess = ((counts[keep] - expected) ** 2 / expected).sum() - (keep.sum() - 1)
    assert abs(excess) < 4 * math.sqrt(2 * (keep.sum() - 1))


@pytest.mark.parametrize("rule", RULES)
def test_any_tree_emits_what_plain_decoding_emits(device: torch.device, rule: tuple):
    """A toy language model, logits = table[previous token]: the text is the same for every tree."""
    vocab, length = 40, 60
    generator = torch.Generator().manual_seed(7)
    table = torch.randn(vocab, vocab, generator=generator) * 2

    def decode(nodes: int) -> tuple[list[int], int]:
        text, cycles = [1], 0
        while len(text) < length:
            parents = random_parents(nodes, generator)
            guess = table[text[-1]].topk(min(nodes, vocab)).indices
            tokens = guess[torch.randint(len(guess), (nodes,), generator=generator)]
            tokens[0] = text[-1]
            logits = table[tokens][None].to(device)
            case = make(logits, tokens, parents, rule, position=len(text))
            _, path_len, _, emitted = (a.cpu() for a in case.run())
            text += emitted[0, : path_len[0]].tolist()
            cycles += 1
        return text[:length], cycles

    plain, plain_cycles = decode(1)
    assert plain_cycles == length - 1
    for nodes in (2, 9, 30):
        text, cycles = decode(nodes)
        assert text == plain
    assert cycles < plain_cycles


# --- Checks


def good_case(device: torch.device | str = "cpu") -> Case:
    logits = torch.zeros(2, 3, 8, device=device)
    return make(logits, [[0, 1, 2]] * 2, [[-1, 0, 1]] * 2, (1.0, 0, 1.0, 0.0))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(logits=torch.zeros(3, 8)), "logits: wanted 3 dimensions, got 2"),
        (dict(logits=torch.zeros(2, 3, 8).double()), "logits: wanted Float, BFloat16 or Half"),
        (dict(logits=torch.zeros(2, 3, 16)[..., ::2]), "logits: wanted stride 1"),
        (dict(logits=torch.zeros(2, 0, 8)), "logits: wanted 1..256 nodes, got 0"),
        (dict(logits=torch.zeros(2, 257, 8)), "logits: wanted 1..256 nodes, got 257"),
        (dict(logits=torch.zeros(2, 3, 0)), "logits: wanted a vocabulary of 1..1048576, got 0"),
        (dict(tokens=torch.zeros(2, 4).long()), r"tokens: wanted shape \[2, 3\], got \[2, 4\]"),
        (dict(tokens=torch.zeros(2, 3)), "tokens: wanted Long, got Float"),
        (dict(tokens=torch.zeros(3, 2).long().T), "tokens: wanted a contiguous tensor"),
        (dict(parents=torch.zeros(2, 3).long()), "parents: wanted Int, got Long"),
        (dict(seed=torch.zeros(1).long()), r"seed: wanted shape \[2\], got \[1\]"),
        (dict(seed=torch.zeros(2)), "seed: wanted Long, got Float"),
        (dict(position=torch.zeros(2).int()), "position: wanted Long, got Int"),
        (dict(temperature=torch.zeros(2).double()), "temperature: wanted Float, got Double"),
        (dict(max_depth=-1), "max_depth: wanted 0..256, got -1"),
    ],
)
def test_bad_input_is_named(device: torch.device, change: dict, message: str):
    change = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in change.items()}
    with pytest.raises(RuntimeError, match=message):
        replace(good_case(device), **change).run()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(parents=torch.tensor([[-1, 0, 1], [0, 0, 1]]).int()), r"parents\[1, 0\]: wanted -1"),
        (dict(parents=torch.tensor([[-1, 0, 2], [-1, 0, 1]]).int()), r"parents\[0, 2\]: wanted"),
        (dict(parents=torch.tensor([[-1, -1, 0], [-1, 0, 1]]).int()), r"parents\[0, 1\]: .*-1"),
        (dict(temperature=torch.tensor([0, -1.0])), r"temperature\[1\]: wanted a finite number"),
        (dict(temperature=torch.tensor([0, math.nan])), r"temperature\[1\]: .* got nan"),
        (dict(temperature=torch.tensor([math.inf, 1])), r"temperature\[0\]: .* got inf"),
        (dict(top_k=torch.tensor([0, -1]).int()), r"top_k\[1\]: wanted 0 \(off\) or more, got -1"),
        (dict(top_p=torch.tensor([1, 0.0])), r"top_p\[1\]: wanted more than 0 .*, got 0"),
        (dict(top_p=torch.tensor([1, 1.5])), r"top_p\[1\]: .* got 1.5"),
        (dict(min_p=torch.tensor([0, -0.1])), r"min_p\[1\]: wanted 0..1, got -0.1"),
        (dict(min_p=torch.tensor([0, math.nan])), r"min_p\[1\]: wanted 0..1, got nan"),
    ],
)
def test_bad_values_are_named_on_the_cpu(change: dict, message: str):
    with pytest.raises(RuntimeError, match=message):
        replace(good_case(), **change).run()


def test_empty_batch(device: torch.device):
    empty = Case(*(a[:0] if isinstance(a, Tensor) else a for a in good_case(device).args()))
    assert [t.shape for t in empty.run()] == [(0, 6), (0,), (0,), (0, 6)]


def test_opcheck(device: torch.device):
    torch.library.opcheck(torch.ops.hivis.tree_accept.default, good_case(device).args())
