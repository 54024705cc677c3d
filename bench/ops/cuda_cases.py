"""What the op benchmark times on a GPU: the sizes of real models.

Every case has as many sets of buffers as it takes to exceed the L2 cache twice: in a model, a
layer's K and V come from memory, since the weights and all other layers have been through the cache
since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bench.common.timing import Call
from bench.common.trees import rank_parents
from bench.ops import peers
from bench.ops.cases import SHORT, OpCase, Setting, on_cuda, random_parents
from bench.ops.goals_by_case import GOALS, LLAVA_7B, LLAVA_13B, QWEN_7B, ModelSizes
from hivis import ops
from hivis.core.tree import ancestor_words

DEPTH, TOP_K = 6, 10  # of the trees
MOST_COPIES = 256
TREE_ROWS = 128  # between two trees in a cache that holds many


def copies_for(touched: int, setting: Setting) -> int:
    """How many sets of buffers exceed the L2 cache twice if a call touches `touched` bytes."""
    return min(MOST_COPIES, 1 + -(-2 * setting.l2_bytes // max(touched, 1)))


# --- tree_attention


@on_cuda
def tree_attention(setting: Setting) -> Iterator[OpCase]:
    """Peers: `bench.ops.peers`. N = 60 at the lengths that have goals, N at one length, and a
    batch of four lengths."""
    models = [LLAVA_7B, QWEN_7B]
    for model in models:
        for length in (700, 4096, 32768):
            yield attention_case(setting, model, [length], 60)
    for model in models[: 1 if setting.quick else 2]:
        for nodes in (16, 64) if setting.quick else (1, 16, 32, 60, 64):
            yield attention_case(setting, model, [2048], nodes)
    if not setting.quick:
        for model in models:
            yield attention_case(setting, model, [700, 1400, 2048, 4096], 60)


def attention_name(model: ModelSizes, lengths: Sequence[int], nodes: int) -> str:
    return f"{model.name} N={nodes} S={'/'.join(map(str, lengths))}"


def attention_case(
    setting: Setting,
    model: ModelSizes,
    lengths: Sequence[int],
    nodes: int,
    dtype: torch.dtype = torch.bfloat16,
) -> OpCase:
    on = {"device": setting.device, "dtype": dtype}
    batch, rows, scale = len(lengths), max(lengths) + nodes, model.dim**-0.5
    name = attention_name(model, lengths, nodes)
    goals = GOALS.get(("tree_attention", name), ())

    # What a call has to touch: the rows that are seen, the queries and the result.
    seen_rows = sum(length + nodes for length in lengths)
    q = torch.randn(batch, nodes, model.heads, model.dim, **on)
    kv_bytes = 2 * model.kv_heads * seen_rows * model.dim * q.element_size()
    kv = [
        torch.randn(2, batch, model.kv_heads, rows, model.dim, **on)
        for _ in range(copies_for(kv_bytes, setting))
    ]
    kv_len = torch.tensor(lengths, dtype=torch.int32, device=setting.device)
    ancestors = ancestor_words(random_parents(nodes)).to(setting.device).repeat(batch, 1, 1)
    index = torch.arange(nodes, device=setting.device)
    seen = ((ancestors[:, :, index // 64] >> (index % 64)) & 1).bool()

    def call(k: Tensor, v: Tensor) -> Call:
        return lambda: ops.tree_attention(q, k, v, kv_len, ancestors, scale)

    ours = [call(k, v) for k, v in kv]
    ks, vs = zip(*kv, strict=True)
    problem = peers.AttentionProblem(q, ks, vs, kv_len, lengths, seen, scale)
    others = peers.attention_peers(problem, with_flex=bool(goals) and setting.flex)
    unmasked = peers.sdpa_unmasked(problem)
    return OpCase(
        f"{name} H={model.heads}/{model.kv_heads} D={model.dim} {SHORT[dtype]}",
        dtype,
        ours,
        {other: peer.calls for other, peer in others.items()},
        kv_bytes + 2 * q.numel() * q.element_size(),
        4 * nodes * model.heads * seen_rows * model.dim,
        bounds={"sdpa_unmasked": unmasked.calls} if unmasked else {},
        outcomes={"ours": ours[0]} | {o: outcome_of(peer) for o, peer in others.items()},
        skipped=problem.skipped,
        goals=goals,
    )


def outcome_of(peer: peers.Peer) -> Callable[[], Tensor]:
    return lambda: peer.form(peer.calls[0]())


# --- kv_compact_


@on_cuda
def kv_compact_(setting: Setting) -> Iterator[OpCase]:
    """Peer: index_select of the accepted rows of all layers, then copy_ to their place."""
    for model in (LLAVA_7B, LLAVA_13B, QWEN_7B):
        yield compact_case(setting, model, [0, 2, 5, 9, 14, 20])


def compact_name(model: ModelSizes, accepted: list[int]) -> str:
    return f"{model.name} moved={sum(node != i for i, node in enumerate(accepted))}"


def compact_case(
    setting: Setting, model: ModelSizes, accepted: list[int], dtype: torch.dtype = torch.bfloat16
) -> OpCase:
    """One slab; every call has its tree in another place of it."""
    moved = sum(node != i for i, node in enumerate(accepted))
    item = torch.empty((), dtype=dtype).element_size()
    touched = 2 * model.layers * 2 * model.kv_heads * moved * model.dim * item
    copies = copies_for(touched, setting)
    on = {"device": setting.device}
    shape = (model.layers, 2, 1, model.kv_heads, (copies + 1) * TREE_ROWS, model.dim)
    kv = torch.randn(shape, dtype=dtype, **on)
    starts = torch.arange(copies, dtype=torch.int32, **on).unsqueeze(1) * TREE_ROWS + 44
    lengths = starts.clone()
    path = torch.tensor([accepted], dtype=torch.int32, **on)
    path_len = torch.tensor([len(accepted)], dtype=torch.int32, **on)
    first = int(starts[0])

    def reset() -> Tensor:
        return lengths.copy_(starts)

    def ours(kv_len: Tensor) -> Call:
        return lambda: ops.kv_compact_(kv, kv_len, path, path_len)

    def gather_copy(kv_len: Tensor, start: int) -> Call:
        rows = start + path[0].long()
        place = kv[:, :, :, :, start : start + len(accepted)]

        def run() -> None:
            place.copy_(kv.index_select(4, rows))
            kv_len.add_(path_len)

        return run

    calls = {
        "ours": [ours(kv_len) for kv_len in lengths],
        "gather_copy": [
            gather_copy(kv_len, first + i * TREE_ROWS) for i, kv_len in enumerate(lengths)
        ],
    }

    def outcome(call: Call) -> Callable[[], Tensor]:
        def run() -> Tensor:
            reset()
            tree = kv[:, :, :, :, first : first + TREE_ROWS]
            before = tree.clone()
            call()
            # As bytes: copies are equal or wrong.
            moved_to = [x.contiguous().view(torch.uint8).flatten() for x in (tree, lengths[0])]
            result = torch.cat(moved_to)
            tree.copy_(before)
            reset()
            return result

        return run

    name = compact_name(model, accepted)
    return OpCase(
        f"{name} L={model.layers} Hkv={model.kv_heads} D={model.dim} {SHORT[dtype]}",
        dtype,
        calls["ours"],
        {"gather_copy": calls["gather_copy"]},
        touched,
        outcomes={who: outcome(sequence[0]) for who, sequence in calls.items()},
        reset=reset,
        goals=GOALS.get(("kv_compact_", name), ()),
    )


# --- tree_accept


@on_cuda
def tree_accept(setting: Setting) -> Iterator[OpCase]:
    """A walk of five nodes in a tree with several at each depth. Peers do only the draws, for all
    nodes at once and without the walk: argmax; softmax and an exponential race, which is what
    multinomial does; with top-p a sort."""
    for vocab, nodes in ((152064, 60), (32064, 60), (32000, 16)):
        for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.9)):
            if setting.quick and vocab != 152064:
                continue
            yield accept_case(setting, vocab, nodes, temperature, top_p)


def accept_name(vocab: int, nodes: int, temperature: float, top_p: float) -> str:
    return f"V={vocab} N={nodes} T={temperature:g}" + (f" p={top_p:g}" if top_p < 1 else "")


def accept_case(
    setting: Setting,
    vocab: int,
    nodes: int,
    temperature: float,
    top_p: float,
    dtype: torch.dtype = torch.bfloat16,
    walk: int = 5,
) -> OpCase:
    on = {"device": setting.device}
    touched = nodes * vocab * torch.empty((), dtype=dtype).element_size()
    copies = copies_for(touched, setting)
    logits = torch.randn(copies, nodes, vocab, dtype=dtype, **on).mul_(3)
    if temperature == 0:  # no ties, so that every call finds the same largest token
        places = torch.randint(0, vocab, (copies, nodes, 1), **on)
        logits.scatter_(2, places, 30.0)
    tokens = torch.randint(0, vocab, (copies, nodes), **on)
    listed = rank_parents(nodes, DEPTH, TOP_K)
    parents = torch.tensor([listed], dtype=torch.int32, **on)
    way = [0]  # down the first children
    while way[-1] in listed:
        way.append(listed.index(way[-1]))

    def settings(batch: int) -> list[Tensor]:
        one = torch.ones(batch, **on)
        return [one * temperature, (one * 0).int(), one * top_p, one * 0]

    # The nodes of the way carry what the target draws at their parents, up to the walk's last.
    seed = torch.zeros(copies, dtype=torch.int64, **on)
    root = torch.full((copies, 1), -1, dtype=torch.int32, **on)
    for depth, node in enumerate(way[:walk]):
        drawn = ops.tree_accept(
            logits[:, node : node + 1],
            tokens[:, :1].contiguous(),
            root,
            seed,
            seed + depth,
            *settings(copies),
            0,
        )[2]
        children = [child for child, parent in enumerate(listed) if parent == node]
        tokens[:, children] = (drawn.unsqueeze(1) + 1) % vocab
        if depth + 1 < walk:
            tokens[:, way[depth + 1]] = drawn

    def ours(i: int) -> Call:
        given = [
            logits[i : i + 1],
            tokens[i : i + 1],
            parents,
            seed[:1],
            seed[:1],
            *settings(1),
            DEPTH,
        ]
        return lambda: ops.tree_accept(*given)

    calls = [ours(i) for i in range(copies)]
    who, draw = draw_like(temperature, top_p)
    outcomes: dict[str, Callable[[], Tensor]] = {}
    if temperature == 0:
        drawn_tokens = torch.cat([tokens[0, way[1:walk]], drawn[:1]])
        outcomes = {
            "ours": lambda: walked_tokens(*calls[0]()),
            "argmax": lambda: draw(logits[:1])[0, way[:walk]],
            "drawn one by one": lambda: drawn_tokens,
        }
    name = accept_name(vocab, nodes, temperature, top_p)
    return OpCase(
        f"{name} walk={walk} {SHORT[dtype]}",
        dtype,
        calls,
        {who: [lambda i=i: draw(logits[i : i + 1]) for i in range(copies)]},
        touched,
        outcomes=outcomes,
        goals=GOALS.get(("tree_accept", name), ()),
    )


def walked_tokens(path: Tensor, path_len: Tensor, next_token: Tensor, emitted: Tensor) -> Tensor:
    """What is emitted for one sequence: the accepted nodes' tokens, then the next one."""
    return emitted[0, : int(path_len[0])]


def draw_like(temperature: float, top_p: float) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Name and function of a peer that draws a token per node from logits [1, N, V]."""
    if temperature == 0:
        return "argmax", lambda logits: logits.argmax(-1)

    def race(mass: Tensor) -> Tensor:
        return mass.div(torch.empty_like(mass).exponential_()).argmax(-1)

    if top_p == 1:
        return "softmax_multinomial", lambda x: race((x.float() / temperature).softmax(-1))

    def nucleus(logits: Tensor) -> Tensor:
        mass, order = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
        mass = mass.masked_fill(mass.cumsum(-1) - mass >= top_p, 0.0)
        return order.gather(-1, race(mass).unsqueeze(-1)).squeeze(-1)

    return "sort_multinomial", nucleus
