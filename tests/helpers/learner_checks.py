"""Toy targets and samples, and a learner's passes beside its drafter at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.core.handoff import DrafterPrompt
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.training.data.samples import Sample
from hivis.training.learners.learner import Stage
from hivis.training.learners.losses import LossWeights, TargetTables
from hivis.training.learners.self_feedback import first_row
from tests.helpers.trees import acceptance_of

VOCAB, HIDDEN = 40, 32
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCAB,
}
#: A placeholder that is no token: looking it up fails.
PLACEHOLDER = 10**6


def toy_target() -> TargetTables:
    make = torch.Generator().manual_seed(0)
    shape = (VOCAB, HIDDEN)
    return TargetTables(torch.randn(shape, generator=make), torch.randn(shape, generator=make))


def make_sample(layout: list[int], answer: int = 8, seed: int = 0) -> Sample:
    """Random states; in the prompt's ``layout``, 0 is text and another number that image."""
    make = torch.Generator().manual_seed(seed)
    images = torch.tensor(layout + [0] * answer)
    rows, visual = len(images), images > 0
    tokens = torch.randint(0, VOCAB, (rows,), generator=make)
    spans = []
    for number in range(1, max(layout) + 1):
        at = (images == number).nonzero()[:, 0]
        spans.append([int(at[0]), int(at[-1]) + 1])
    return Sample(
        tokens=torch.where(visual, PLACEHOLDER, tokens),
        visual=visual,
        answer=torch.arange(rows) >= len(layout),
        spans=torch.tensor(spans, dtype=torch.int64).view(-1, 2),
        greedy=True,
        conversation=0,
        kept=torch.ones(rows, dtype=torch.bool),
        hidden=torch.randn(rows, HIDDEN, generator=make),
        images=torch.randn(int(visual.sum()), HIDDEN, generator=make) if spans else None,
    )


def counting_samples(count: int, target: TargetTables) -> list[Sample]:
    """Texts that count upwards, and hidden states that point at the next token."""
    samples = []
    for i in range(count):
        sample = make_sample([0, 0, *([1, 1, 1] if i % 3 else []), 0, 0], 10 + i % 5, seed=i)
        text = (int(sample.tokens[0]) + torch.arange(len(sample))) % VOCAB
        hidden = target.head[(text + 1) % VOCAB] * 0.7 + sample.hidden * 0.05
        text = torch.where(sample.visual, PLACEHOLDER, text)
        samples.append(replace(sample, tokens=text, hidden=hidden))
    return samples


def scrambled(module: torch.nn.Module, seed: int = 0) -> None:
    """Random values in every parameter, so that each of them counts."""
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=make) * 0.1


def feedback(steps: int, **changes: Any) -> Stage:
    return replace(Stage("test", 60, 3e-3, LossWeights(), steps), **changes)


def answer_outputs(learner: Any, samples: Sequence[Sample], stage: Stage) -> list[Tensor]:
    """``[R, E]`` of each pass, sample after sample."""
    batch = learner.batch(samples, stage)
    rows = getattr(batch, "rows", batch)
    answer = rows.answer[:, first_row(rows, stage.steps) :]
    return [out[answer] for out in learner.outputs(batch, stage)]


def assert_passes_equal_inference(learner: Any, sample: Sample) -> None:
    """Two chains of the drafter, and the passes of a sample that goes on as they say.

    Level s of the chain behind row r has the hidden state of pass s at row r + s.
    """
    drafter = learner.drafter()
    start, tokens = sample.prompt_rows, sample.tokens.clone()
    levels: list[Tensor] = []
    drafter.prefill(prompt_of(sample, drafter), tokens[start : start + 1], len(sample) + 20)
    _watch(drafter, levels)
    plan = GrowthPlan(TreeShape(nodes=4, depth=3, top_k=1))
    sampling = SamplingState.of(SamplingParams(), 1, "cpu")
    wanted: list[tuple[int, int, Tensor]] = []

    def chain(root: int) -> Any:
        wanted.append((0, root, drafter.cache.entries["output"][0].clone()))
        token = tokens[start + root : start + root + 1]
        levels.clear()
        tree = drafter.grow(token, torch.zeros(1, dtype=torch.int64), sampling, plan)
        wanted.extend((s, root + s, levels[s - 1]) for s in (1, 2))
        tokens[start + root + 1 : start + root + 3] = tree.tokens[0, 1:3]
        return tree

    tree = chain(0)
    path, length = torch.tensor([[0, 1, 2, 2]], dtype=torch.int32), torch.tensor([3]).int()
    acceptance = acceptance_of(tree, path, length, tokens[start + 3 : start + 4])
    nodes = torch.full((1, 4, HIDDEN), float("nan"))
    nodes[0, :3] = sample.hidden[start : start + 3]
    drafter.commit(nodes, tree, acceptance)
    chain(3)

    outs = answer_outputs(learner, [replace(sample, tokens=tokens)], feedback(3))
    for step, row, state in wanted:
        assert torch.allclose(outs[step][row], state, atol=2e-5), f"pass {step}, row {row}"


def _watch(drafter: OneLayerDrafter, outputs: list[Tensor]) -> None:
    finish = drafter._finish

    def spy(*args: Tensor) -> Tensor:
        out = finish(*args)
        outputs.append(out[0, 0].clone())
        return out

    drafter._finish = spy  # type: ignore[method-assign]


def prompt_of(sample: Sample, drafter: OneLayerDrafter) -> DrafterPrompt:
    """What the target hands on of the sample's prompt."""
    end = sample.prompt_rows
    visual = sample.visual[:end]
    embeddings = F.embedding(sample.tokens[:end] * ~visual, drafter.embedding)
    if sample.images is not None:
        embeddings[visual] = sample.images
    keep = ~visual if drafter.rows == "text" else torch.ones_like(visual)
    return DrafterPrompt(
        embeddings[None, keep],
        sample.hidden[None, :end][:, keep],
        end,
        visual=visual[None, keep],
        features={"pixel_values": torch.zeros(len(sample.spans), 3, 8, 8)},
    )


def assert_no_row_sees_the_future(learner: Any, sample: Sample) -> None:
    start, changed = sample.prompt_rows, 6
    tokens, hidden = sample.tokens.clone(), sample.hidden.clone()
    tokens[start + changed :] = (tokens[start + changed :] + 1) % VOCAB
    hidden[start + changed - 1 :] = 100.0
    late = replace(sample, tokens=tokens, hidden=hidden)
    before = answer_outputs(learner, [sample], feedback(3))
    after = answer_outputs(learner, [late], feedback(3))
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one[:changed], two[:changed])
        assert not torch.isclose(one[changed:], two[changed:]).all(1).any()


def assert_padding_does_not_leak(learner: Any, samples: Sequence[Sample]) -> None:
    together = answer_outputs(learner, samples, feedback(3))
    alone = [answer_outputs(learner, [sample], feedback(3)) for sample in samples]
    for step, out in enumerate(together):
        assert torch.allclose(out, torch.cat([own[step] for own in alone]), atol=1e-5)


def train(learner: Any, samples: Sequence[Sample], stage: Stage) -> list[float]:
    """Plain updates over batches of 8; the loss of each."""
    optimizer = torch.optim.AdamW(learner.module.parameters(), lr=stage.lr)
    history = []
    for update in range(stage.updates):
        at = update * 8 % len(samples)
        passes = learner.losses(learner.batch(samples[at : at + 8], stage), stage)
        loss = torch.stack([x.total(stage.weights, keep) for x, keep in passes]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    return history
