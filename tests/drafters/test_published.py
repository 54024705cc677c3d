"""Published checkpoints: built with random weights by their authors' names, against plain formulas.

Names, shapes and config entries follow what the authors' own modules save: HiViS's ``cnets_hivis``,
ViSpec's ``cnets_ours`` and EAGLE's ``cnets1``.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from hivis.core.handoff import DrafterPrompt
from hivis.core.sampling import SamplingParams, SamplingState
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.inspect import inspect
from hivis.drafters.load import load_drafter
from hivis.drafters.published import ignored_tensors
from hivis.drafters.vispec import ViSpecDrafter
from hivis.engine.generate import generate
from hivis.errors import HivisError
from tests.helpers.reference_drafters import ReferenceDrafter
from tests.helpers.small_llava import VOCAB, random_inputs, random_target
from tests.helpers.trees import acceptance_of, path_to, token_paths

E, HEADS, INNER = 64, 4, 96
LLAVA = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": E, "initializer_range": 0.02, "intermediate_size": INNER,
    "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": HEADS,
    "num_hidden_layers": 1, "pad_token_id": 0, "rms_norm_eps": 1e-05, "tie_word_embeddings": False,
    "torch_dtype": "float16", "use_cache": True, "vocab_size": VOCAB,
}  # fmt: skip
QWEN = LLAVA | {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "model_type": "qwen2_5_vl",
    "num_key_value_heads": 2,
    "qkv_bias": True,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
LLAMA_3 = LLAVA | {"num_key_value_heads": 2, "rope_theta": 500000.0, "bias": False}
# kind, config, file, dtype
PUBLISHED = {
    "HiViS-llava": ("hivis", LLAVA, "model.safetensors", torch.float16),
    "HiViS-Qwen2.5-VL": ("hivis", QWEN, "model.safetensors", torch.bfloat16),
    "ViSpec-llava": ("vispec", LLAVA | {"model_type": "llava_next", "rope_scaling": None},
                     "model.safetensors", torch.float32),
    "ViSpec-Qwen2.5-VL": ("vispec", QWEN | {"num_key_value_heads": HEADS},
                          "model.safetensors", torch.bfloat16),
    "EAGLE-Vicuna": ("eagle", LLAVA, "pytorch_model.bin", torch.float16),
    "EAGLE-LLaMA3": ("eagle", LLAMA_3, "pytorch_model.bin", torch.float16),
    "EAGLE-Qwen2": ("eagle", QWEN | {"model_type": "qwen2"}, "pytorch_model.bin", torch.bfloat16),
}  # fmt: skip
#: How the images of its target are hidden from a HiViS drafter; the others hide nothing.
HIDING = {
    name: {"positions": "original", "hide_before": 1, "hide_after": 2} if "Qwen" in name else {}
    for name in PUBLISHED
}


def weights(kind: str, config: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors by the published names, the frozen embedding table among them."""
    keys = config.get("num_key_value_heads", HEADS) * E // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (VOCAB, E),
        "layers.0.self_attn.q_proj.weight": (E, E),
        "layers.0.self_attn.k_proj.weight": (keys, E),
        "layers.0.self_attn.v_proj.weight": (keys, E),
        "layers.0.self_attn.o_proj.weight": (E, E),
        "layers.0.mlp.gate_proj.weight": (INNER, E),
        "layers.0.mlp.up_proj.weight": (INNER, E),
        "layers.0.mlp.down_proj.weight": (E, INNER),
        "layers.0.post_attention_layernorm.weight": (E,),
        "fc.weight": (E, (3 if kind == "hivis" else 2) * E),
    }
    if config.get("bias", True):
        shapes["fc.bias"] = (E,)
    if config.get("qkv_bias"):
        for part, size in (("q", E), ("k", keys), ("v", keys)):
            shapes[f"layers.0.self_attn.{part}_proj.bias"] = (size,)
    if kind == "hivis":
        shapes["residual"] = (3, E)
    if kind == "vispec":
        shapes |= {
            "imadpt.q": (2, HEADS, E // HEADS),
            "imadpt.k_proj.weight": (E, E),
            "imadpt.v_proj.weight": (E, E),
            "imadpt.o_proj.weight": (E, E),
            "img_fc.weight": (E, 2 * E),
            "img_fc.bias": (E,),
        }
        if config.get("qkv_bias"):
            shapes["imadpt.k_proj.bias"] = shapes["imadpt.v_proj.bias"] = (E,)
    make = torch.Generator().manual_seed(7)
    return {
        name: (torch.randn(shape, generator=make) * (0.12 if len(shape) > 1 else 0.5)).to(dtype)
        for name, shape in shapes.items()
    }


def write(folder: Path, name: str) -> dict[str, Tensor]:
    kind, config, file, dtype = PUBLISHED[name]
    tensors = weights(kind, config, dtype)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".bin"):
        torch.save(tensors, folder / file)
    else:
        save_file(tensors, folder / file)
    return tensors


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
        plain = generate(target, inputs, sampling)
        assert generate(target, inputs, sampling, drafter).tokens == plain.tokens


def test_a_hivis_checkpoint_is_refused_if_nobody_says_how_images_are_hidden(tmp_path: Path) -> None:
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
    config(bias=False)(tmp_path)
    drafter = load_drafter(tmp_path)
    assert not drafter.tensors["fc.bias"].any()
    assert "fc.bias" in ignored_tensors(inspect(tmp_path))


# Hostile files


class Code:
    """A pickle of this runs code when it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        raw = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in raw.items() if value != "drop"}))

    return spoil


def tensors(drop: str = "", **extra: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        held = torch.load(path, weights_only=True)
        held |= {key.replace("__", "."): value for key, value in extra.items()}
        held.pop(drop, None)
        torch.save(held, path)

    return spoil


def file(make: Callable[[Path], object], name: str = "pytorch_model.bin") -> Callable[[Path], None]:
    return lambda folder: None if make(folder / name) is None else None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def legacy(path: Path) -> None:
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    cut(path)


BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "wanted a drafter's config"),
    "config cut": (file(cut, "config.json"), "wanted JSON"),
    "config nested": (file(lambda p: p.write_text("[" * 9999), "config.json"), "wanted JSON"),
    "no hidden_size": (config(hidden_size="drop"), "wanted hidden_size of a published drafter"),
    "no rms_norm_eps": (config(rms_norm_eps="drop"), "wanted rms_norm_eps"),
    "two layers": (config(num_hidden_layers=2), "num_hidden_layers: wanted 1, got 2"),
    "another activation": (config(hidden_act="gelu"), "hidden_act: wanted 'silu', got 'gelu'"),
    "scaled positions": (config(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling"),
    "heads": (config(num_attention_heads=5), "hidden_size: wanted a multiple of 5 heads, got 64"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads: wanted a whole number"),
    "size a text": (config(hidden_size="64"), "hidden_size: wanted a whole number"),
    "vocabulary a text": (config(vocab_size="x"), "vocab_size: wanted a whole number"),
    "theta": (config(rope_theta=-1), "rope_theta: wanted a positive number"),
    "other heads": (config(num_key_value_heads=2), "k_proj.weight: wanted shape [32, 64]"),
    "other vocabulary": (config(vocab_size=9), "embed_tokens.weight: wanted shape [9, 64]"),
    "a bias missing": (tensors(drop="fc.bias"), "wanted fc.bias, got no such tensor"),
    "no bias, no weight": (
        lambda f: (config(bias=False)(f), tensors(drop="fc.bias")(f), tensors(drop="fc.weight")(f)),
        "wanted a HiViS, ViSpec or EAGLE-2 drafter",
    ),
    "no bias, no weight, but a residual": (
        lambda f: (
            config(bias=False)(f),
            tensors(drop="fc.bias")(f),
            tensors(drop="fc.weight", residual=torch.ones(2, E))(f),
        ),
        "wanted fc.bias, fc.weight, got no such tensor",
    ),
    "no weights": (lambda f: (f / "pytorch_model.bin").unlink(), "got neither"),
    "weights cut": (file(cut), "wanted a whole file of tensors"),
    "old format cut": (file(legacy), "pytorch_model.bin: wanted"),
    "weights empty": (file(lambda p: p.write_bytes(b"")), "wanted a whole file of tensors"),
    "weights noise": (file(lambda p: p.write_bytes(b"\x80\x02noise" * 9)), "pytorch_model.bin: w"),
    "code": (file(lambda p: torch.save({"fc.weight": Code(p.parent / "mark")}, p)), "alone, got"),
    "bare code": (
        file(lambda p: p.write_bytes(pickle.dumps(Code(p.parent / "mark"), protocol=2))),
        ": wanted",
    ),
    "a list": (file(lambda p: torch.save([torch.ones(2)], p)), "wanted tensors by name, got list"),
    "no tensors": (file(lambda p: torch.save({"fc.weight": 3}, p)), "wanted tensors by name"),
    "nothing": (file(lambda p: torch.save({}, p)), "got no tensor"),
    "key missing": (tensors(drop="layers.0.mlp.up_proj.weight"), "wanted layers.0.mlp.up_proj"),
    "key unexpected": (tensors(head__weight=torch.ones(2)), "got head.weight too"),
    "an input norm": (tensors(layers__0__input_layernorm__weight=torch.ones(E)), "input_layernorm"),
    "shape": (tensors(fc__weight=torch.ones(E, E)), "fc.weight: wanted shape [64, 128]"),
    "whole numbers": (tensors(fc__weight=torch.ones(E, 2 * E).int()), "fc.weight: wanted floats"),
    "EAGLE-3": (tensors(midlayer__mlp__up_proj__weight=torch.ones(2)), "got EAGLE-3"),
    "residual flat": (tensors(residual=torch.ones(E)), "residual: wanted [R, E]"),
    "residual and no room": (tensors(residual=torch.ones(3, E)), "fc.weight: wanted shape"),
    "half a ViSpec": (tensors(img_fc__bias=torch.ones(E)), "wanted a HiViS, ViSpec or EAGLE-2"),
    "queries flat": (tensors(imadpt__q=torch.ones(2, E)), "imadpt.q: wanted [Q, H, D]"),
    "an adaptor alone": (tensors(imadpt__q=torch.ones(2, 4, 16)), "wanted imadpt.k_proj.weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    write(tmp_path, "EAGLE-Vicuna")
    spoil, message = BAD[case]
    spoil(tmp_path)
    with pytest.raises(HivisError) as caught:
        load_drafter(tmp_path, hiding={})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_the_code_of_the_hostile_pickle_would_run(tmp_path: Path) -> None:
    """Else the two cases above would show nothing."""
    torch.save(Code(tmp_path / "mark"), tmp_path / "code.bin")
    torch.load(tmp_path / "code.bin", weights_only=False)
    assert (tmp_path / "mark").is_dir()


def test_a_cut_safetensors_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "ViSpec-llava")
    cut(tmp_path / "model.safetensors")
    with pytest.raises(HivisError, match="wanted a safetensors file"):
        load_drafter(tmp_path)


def test_safetensors_go_before_a_pickle(tmp_path: Path) -> None:
    write(tmp_path, "HiViS-llava")
    torch.save(Code(tmp_path / "mark"), tmp_path / "pytorch_model.bin")
    assert isinstance(load_drafter(tmp_path, hiding={}), HiViSDrafter)


def test_a_config_of_its_own_for_a_checkpoint_without_one(tmp_path: Path) -> None:
    write(tmp_path, "ViSpec-llava")
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    with pytest.raises(HivisError, match="config.json: wanted a drafter's config"):
        load_drafter(tmp_path)
    assert isinstance(load_drafter(tmp_path, config=tmp_path / "other.json"), ViSpecDrafter)


# The hub


class Hub:
    """Stands in for the hub: knows one repository, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def __call__(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((name, revision, tuple(allow_patterns)))
        if name != "someone/drafter":
            raise huggingface_hub.errors.HFValidationError(f"no {name}\nat all")
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    return made


def test_a_hub_name_is_fetched_and_only_what_is_needed(hub: Hub) -> None:
    write(hub.folder, "HiViS-llava")
    assert isinstance(load_drafter("someone/drafter", revision="v2", hiding={}), HiViSDrafter)
    assert hub.asked == [("someone/drafter", "v2", ("config.json", "model.safetensors"))]


def test_the_pickle_is_fetched_where_there_is_nothing_else(hub: Hub) -> None:
    write(hub.folder, "EAGLE-Vicuna")
    assert load_drafter("someone/drafter").rows == "all"
    assert [asked[2][1] for asked in hub.asked] == ["model.safetensors", "pytorch_model.bin"]


def test_a_folder_never_asks_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.folder / "someone" / "drafter"
    folder.mkdir(parents=True)
    write(folder, "HiViS-llava")
    monkeypatch.chdir(hub.folder)
    load_drafter("someone/drafter", hiding={})
    load_drafter(folder, hiding={})
    for name in ("./someone/other", "/nowhere", "~/drafter", "drafter", "a/b/c", "", ".."):
        with pytest.raises(HivisError):
            load_drafter(name)
    with pytest.raises(HivisError, match="wanted a folder or a hub name"):
        load_drafter(Path("someone/other"))
    assert not hub.asked


def test_what_the_hub_refuses_is_one_line(hub: Hub) -> None:
    with pytest.raises(HivisError) as caught:
        load_drafter("someone/else")
    assert str(caught.value).endswith("from the hub: no someone/else")


def test_without_a_network_and_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client, told that it is offline, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LocalEntryNotFoundError):
        huggingface_hub.snapshot_download("someone/drafter")
    with pytest.raises(HivisError, match="the hub cannot be reached") as caught:
        load_drafter("someone/drafter")
    assert "\n" not in str(caught.value)
