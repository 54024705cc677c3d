"""Accepted length on captured greedy answers, without the target.

At temperature 0 the target's answer does not depend on the drafts. So the cycles can be replayed
exactly from a captured answer and its hidden states: the drafter grows its tree, and the path whose
tokens are the next ones of the answer is accepted. Lengths are counted as in
:class:`hivis.engine.results.Statistics`: tokens up to the end of the answer, and in each cycle all
except the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.core.drafter import Drafter
from hivis.core.handoff import Acceptance, DrafterPrompt
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.training.data.samples import Sample


def prompt_of(sample: Sample, embedding: Tensor, rows: str) -> DrafterPrompt:
    """The sample's prompt as the target passes it to a drafter that reads ``rows``.

    Args:
        embedding: ``[V, E]``, the target's; the prompt has its device and dtype.
        rows: ``"text"`` or ``"all"``.
    """
    length = sample.prompt_rows
    visual = sample.visual[:length]
    embeddings = F.embedding(sample.tokens[:length].to(embedding.device), embedding)
    if sample.images is not None:
        embeddings[visual.to(embedding.device)] = sample.images.to(embedding)
    kept = torch.arange(length) if rows == "all" else (~visual).nonzero().flatten()
    hidden = sample.hidden_at(kept).to(embedding)
    on_device = kept.to(embedding.device)
    return DrafterPrompt(
        embeddings[None, on_device],
        hidden[None],
        length,
        tokens=sample.tokens[None, kept].to(embedding.device),
        visual=visual[None, kept].to(embedding.device),
        spans=tuple((begin, end) for begin, end in sample.spans.tolist()),
        seen=None if sample.seen is None else sample.seen.to(embedding),
    )


@torch.inference_mode()
def accepted_lengths(
    drafter: Drafter, embedding: Tensor, sample: Sample, shape: TreeShape
) -> list[int]:
    """Drafted tokens accepted in each cycle of one captured answer, for a bound ``drafter``."""
    device = embedding.device
    prompt = sample.prompt_rows
    tokens = sample.tokens.tolist()
    if prompt >= len(tokens):
        return []
    token = sample.tokens[prompt : prompt + 1].to(device)
    drafter.prefill(
        prompt_of(sample, embedding, drafter.rows), token, len(sample) + shape.drafter_rows
    )
    hidden = sample.hidden_at(torch.arange(len(sample))).to(embedding)
    sampling = SamplingState.of(SamplingParams(), 1, device)
    plan = GrowthPlan(shape)
    lengths, at = [], prompt  # at: the row of the root
    while at + 1 < len(tokens):
        tree = drafter.grow(token, torch.zeros_like(token), sampling, plan)
        path = _matching_path(tree, tokens[at + 1 :])
        after = at + len(path)
        lengths.append(min(after, len(tokens) - 1) - at - 1)
        if after >= len(tokens):
            break
        token = sample.tokens[after : after + 1].to(device)
        nodes = hidden.new_zeros(1, tree.nodes, hidden.shape[1])
        nodes[0, path] = hidden[at:after]
        drafter.commit(nodes, tree, _acceptance(tree, path, token))
        at = after
    return lengths


def _matching_path(tree: DraftTree, answer: list[int]) -> list[int]:
    """Nodes of the longest path from the root whose tokens are the first ones of ``answer``."""
    tokens, parents = tree.tokens[0].tolist(), tree.parents[0].tolist()
    path = [0]
    for wanted in answer:
        child = next(
            (n for n, above in enumerate(parents) if above == path[-1] and tokens[n] == wanted),
            None,
        )
        if child is None:
            break
        path.append(child)
    return path


def _acceptance(tree: DraftTree, path: list[int], token: Tensor) -> Acceptance:
    """The acceptance of ``path``, with ``token`` ``[1]`` as the token after it."""
    padded = path + [path[-1]] * (tree.max_depth + 1 - len(path))
    as_tensor = torch.tensor([padded], dtype=torch.int32, device=token.device)
    length = torch.tensor([len(path)], dtype=torch.int32, device=token.device)
    drawn = tree.tokens[:, path[1:]]
    rest = token.expand(1, len(padded) - drawn.shape[1])
    return Acceptance(as_tensor, length, token, torch.cat([drawn, rest], 1))


def mean_accepted_length(
    drafter: Drafter, embedding: Tensor, samples: Sequence[Sample], shape: TreeShape
) -> float | None:
    """Accepted length, the mean over all cycles of all greedy samples; ``None`` without any."""
    lengths = [
        n for s in samples if s.greedy for n in accepted_lengths(drafter, embedding, s, shape)
    ]
    return sum(lengths) / len(lengths) if lengths else None
