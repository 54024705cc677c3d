"""Published checkpoints, loaded as they are, against plain formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hivis.core.handoff import DrafterPrompt
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.inspect import inspect
from hivis.drafters.load import load_drafter
from hivis.drafters.published import ignored_tensors
from hivis.drafters.vispec import ViSpecDrafter
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from tests.helpers.published_checkpoints import HEADS, HIDING, PUBLISHED, E, write
from tests.helpers.reference_drafters import ReferenceDrafter
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.trees import acceptance_of, path_to, token_paths


def test_kinds_and_what_their_configs_mean(tmp_path: Path) -> None:
    drafters = {}
    for name in PUBLISHED:
        (tmp_path / name).mkdir()
        write(tmp_path / name, name)
        drafters[name] = load_drafter(tmp_path / name, hiding=HIDING[name])
        assert "embed_tokens.weight" not in drafters[name].tensors
    kinds = {name: type(drafter) for name, drafter in drafters.items()}
    assert {name for name, kind in kinds.items() if kind is ViSpecDrafter} == {
        "ViSpec-llava",
        "ViSpec-Qwen2.5-VL",
    }
    llava, qwen = drafters["HiViS-llava"].config, drafters["HiViS-Qwen2.5-VL"].config
    assert (llava.rows, llava.positions, llava.residual_rows) == ("text", "kept", 3)
    assert (llava.num_key_value_heads, llava.rope_theta) == (HEADS, 10000.0)
    assert (qwen.positions, qwen.hide_before, qwen.hide_after) == ("original", 1, 2)
    assert (qwen.rope_theta, qwen.attention_bias) == (1e6, True)
    assert drafters["HiViS-llava"].rows == "text" and drafters["HiViS-Qwen2.5-VL"].rows == "all"
    eagle = drafters["EAGLE-LLaMA3"].config
    assert (eagle.rows, eagle.residual_rows, eagle.rope_theta) == ("all", 0, 500000.0)
    assert not drafters["EAGLE-LLaMA3"].tensors["fc.bias"].any()


def prepare(name: str, folder: Path) -> tuple[Any, ReferenceDrafter, DrafterPrompt, Tensor]:
    """A published drafter that has read a prompt with an image, and its paper's formula of it."""
    kind, config, _, _ = PUBLISHED[name]
    tensors = write(folder, name)
    drafter = load_drafter(folder, hiding=HIDING[name])
    make = torch.Generator().manual_seed(8)
    embedding, head = torch.randn(2, VOCAB, E, generator=make)
    head *= 0.1  # not so sure of one token that trees are chains
    drafter.bind(embedding, head)
    # BOS, text, an opening marker, the image, a closing marker, text
    images = [0] * 4 + [1] * 9 + [0] * 5
    embeddings, hidden = torch.randn(2, 1, len(images), E, generator=make)
    token = torch.tensor([17])
    visual = torch.tensor([images]) > 0
    prompt = DrafterPrompt(embeddings, hidden, len(images), visual=visual)
    if drafter.rows == "text":
        text = ~visual[0]
        prompt = DrafterPrompt(
            embeddings[:, text], hidden[:, text], len(images), visual=visual[:, text]
        )
    drafter.prefill(prompt, token, 120)
    paper = ReferenceDrafter(
        kind,
        tensors,
        HEADS,
        config.get("num_key_value_heads", HEADS),
        config.get("rope_theta", 10000.0),
        config["rms_norm_eps"],
        embedding,
        head,
    )
    bracketed = name == "HiViS-Qwen2.5-VL"
    paper.read(embeddings[0], hidden[0], 17, images, bracketed)
    return drafter, paper, prompt, token


@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_and_trees_are_those_of_the_paper(tmp_path: Path, name: str) -> None:
    drafter, paper, _, token = prepare(name, tmp_path)
    plan = GrowthPlan(TreeShape(nodes=16, depth=5, top_k=4))
    greedy = SamplingState.of(SamplingParams(), 1, "cpu")
    make = torch.Generator().manual_seed(9)
    for cycle in range(3):
        assert int(drafter.cache.kv_len) == len(paper.rows)
        wanted = paper.output()
        assert (drafter.cache.entries["output"][0] - wanted).norm() <= 5e-6 * wanted.norm()
        tree = drafter.grow(token, token, greedy, plan)
        assert token_paths(tree) == paper.tree(int(token), 16, 5, 4)
        path = path_to(tree, 0, 5 + 2 * cycle)
        token = torch.tensor([40 + cycle])
        hidden = torch.randn(1, 16, E, generator=make)
        paper.commit([*tree.tokens[0, path[1:]].tolist(), int(token)], hidden[0, path])
        nodes = torch.tensor([path + path[-1:] * (6 - len(path))], dtype=torch.int32)
        length = torch.tensor([len(path)], dtype=torch.int32)
        acceptance = acceptance_of(tree, nodes, length, token)
        drafter.commit(hidden, tree, acceptance)


def test_the_rows_and_positions_of_hivis_for_qwen(tmp_path: Path) -> None:
    """Rows 3..14 are hidden: the marker, nine visual rows, the marker behind, and one more."""
    _, paper, _, _ = prepare("HiViS-Qwen2.5-VL", tmp_path)
    assert paper.positions == [0, 1, 2, 15, 16, 17] and paper.following == 18


def test_hidden_rows_at_the_ends_of_a_prompt(tmp_path: Path) -> None:
    drafter, _, prompt, token = prepare("HiViS-Qwen2.5-VL", tmp_path)
    states = prompt.hidden
    for layout, kept in (
        ([1] * 4 + [0] * 5, [6, 7, 8]),
        ([0] * 5 + [1] * 4, [0, 1, 2, 3]),
        ([0] * 5, range(5)),
        ([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], [0, 1, 10]),
    ):
        visual = torch.tensor([layout]) > 0
        some = states[:, : len(layout)]
        drafter.prefill(DrafterPrompt(some, some, len(layout), visual=visual), token, 60)
        assert int(drafter.cache.kv_len) == len(kept)
        gap = int(drafter.cache.entries["gap"])
        assert gap == max(kept) + 1 - len(kept)
    with pytest.raises(HivisError, match="prompt: wanted at least one row"):
        visual = torch.tensor([[0, 1, 0]]) > 0
        drafter.prefill(DrafterPrompt(states[:, :3], states[:, :3], 3, visual=visual), token, 60)


@pytest.mark.parametrize("name", PUBLISHED)
def test_ours_keep_what_was_published(tmp_path: Path, name: str) -> None:
    drafter, paper, prompt, token = prepare(name, tmp_path)
    drafter.save(tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").is_file()
    again = load_drafter(tmp_path / "ours")
    assert type(again) is type(drafter) and again.config == drafter.config
    again.bind(*drafter._shared)
    again.prefill(prompt, token, 120)
    assert torch.equal(again.cache.entries["output"], drafter.cache.entries["output"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_text_is_that_of_plain_decoding(tmp_path: Path, name: str, temperature: float) -> None:
    write(tmp_path, name)
    drafter, target = load_drafter(tmp_path, hiding=HIDING[name]), random_target()
    for images in range(3):
        inputs = random_inputs(images, text=16, images=images)
        sampling = SamplingParams(temperature=temperature, seed=images, max_new_tokens=24)
        plain = generate(Engine(target), inputs, sampling)
        assert generate(Engine(target, drafter), inputs, sampling).tokens == plain.tokens


def test_a_hivis_checkpoint_is_refused_without_hiding(tmp_path: Path) -> None:
    """Whatever model type its config names: the authors decide by the target, too."""
    write(tmp_path, "HiViS-Qwen2.5-VL")
    with pytest.raises(HivisError, match="hiding: wanted how images of its target are hidden"):
        load_drafter(tmp_path)


IGNORED = {
    "lm_head.weight": torch.ones(2),
    "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(E // HEADS // 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_tensors_that_the_authors_loaders_ignore_change_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "more").mkdir()
    tensors = write(tmp_path / "plain", name)
    write(tmp_path / "more", name)
    file = tmp_path / "more" / PUBLISHED[name][2]
    (torch.save if file.suffix == ".bin" else save_file)(tensors | IGNORED, file)
    plain = load_drafter(tmp_path / "plain", hiding=HIDING[name])
    more = load_drafter(tmp_path / "more", hiding=HIDING[name])
    assert more.config == plain.config and more.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(more.tensors[key], plain.tensors[key]) for key in plain.tensors)
    found = ignored_tensors(inspect(tmp_path / "more"))
    assert found == sorted([*IGNORED, "embed_tokens.weight"])
    assert ignored_tensors(inspect(tmp_path / "plain")) == ["embed_tokens.weight"]


def test_a_bias_beside_a_config_without_biases_is_ignored(tmp_path: Path) -> None:
    """As by ``nn.Linear(bias=False)`` and a lenient ``load_state_dict``."""
    write(tmp_path, "EAGLE-Vicuna")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": False}))
    drafter = load_drafter(tmp_path)
    assert not drafter.tensors["fc.bias"].any()
    assert "fc.bias" in ignored_tensors(inspect(tmp_path))
