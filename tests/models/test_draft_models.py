"""Draft models from checkpoints: what is shared with the target, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from hivis.api.load_drafter import load_draft_vlm
from hivis.bundled import paths
from hivis.core.sampling import SamplingParams
from hivis.drafters.draft_vlm import DraftVLM
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.families.llava import Llava
from hivis.models.load import load_target
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.small_llava import IMAGE_TOKEN, VOCAB, llava_config, random_inputs, random_llava

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def target():
    return HuggingFaceTarget(random_llava(), Llava())


@pytest.fixture(scope="module")
def bundled():
    return load_target(paths.TARGET)


def small_llava(tower: Any = None, **config: Any) -> LlavaForConditionalGeneration:
    made = llava_config(heads=2, kv_heads=2, layers=1)
    for name, value in config.items():
        setattr(made, name, value)
    torch.manual_seed(8)
    model = LlavaForConditionalGeneration(made).eval()
    if tower is not None:
        model.model.vision_tower.load_state_dict(tower.state_dict())
    return model


def small_llama(vocab: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            head_dim=16,
            vocab_size=vocab,
            max_position_embeddings=512,
        )
    )


def without_tower(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "vision_tower" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tower_of(model: HuggingFaceTarget | Any) -> Any:
    return model.model.model.vision_tower


def drafted(target: HuggingFaceTarget, drafter: DraftVLM, images: int = 1) -> None:
    """A whole text with it, equal to the plain one."""
    inputs = random_inputs(3, images=images)
    params = SamplingParams(temperature=0.7, max_new_tokens=20)
    plain = generate(Engine(target), inputs, params)
    assert (
        generate(Engine(target, drafter, FixedPolicy(12, 4, 3)), inputs, params).tokens
        == plain.tokens
    )


def looks(tower: Any, run: Any) -> int:
    """How often the tower is run."""
    seen: list[int] = []
    hook = tower.register_forward_hook(lambda *_: seen.append(1))
    run()
    hook.remove()
    return len(seen)


def test_a_tower_of_the_same_weights_is_the_targets(target, tmp_path):
    small_llava(tower_of(target)).save_pretrained(tmp_path)
    drafter = load_draft_vlm(tmp_path, target)
    assert tower_of(drafter.model) is tower_of(target)
    assert drafter.model.shares_vision and drafter.rows == "all"
    # Plain and drafted text, one prefill each: the image passes through the tower once a text.
    assert looks(tower_of(target), lambda: drafted(target, drafter)) == 2
    drafted(target, drafter, images=0)
    drafted(target, drafter, images=2)


def test_what_the_shared_tower_saw_is_what_it_would_see(target, tmp_path):
    small_llava(tower_of(target)).save_pretrained(tmp_path)
    inputs = random_inputs(3, images=2)
    prompt = target.prefill(inputs, "all", 100).prompt
    logits = []
    for share in (True, False):
        model = load_draft_vlm(tmp_path, target, share_vision=share).model
        assert (tower_of(model) is tower_of(target)) is share
        logits.append(model.prefill(prompt, torch.tensor([4]), 100))
    assert torch.equal(*logits)


def test_another_tower_stays_its_own(target, tmp_path):
    small_llava().save_pretrained(tmp_path)
    drafter = load_draft_vlm(tmp_path, target)
    assert tower_of(drafter.model) is not tower_of(target)
    assert not drafter.model.shares_vision
    assert looks(tower_of(drafter.model), lambda: drafted(target, drafter)) == 1


def test_a_projector_that_reads_another_layer_shares_the_tower_and_looks_itself(target, tmp_path):
    model = small_llava(tower_of(target), vision_feature_layer=-2)
    model.save_pretrained(tmp_path)
    drafter = load_draft_vlm(tmp_path, target)
    assert tower_of(drafter.model) is tower_of(target)
    assert not drafter.model.shares_vision
    assert looks(tower_of(target), lambda: drafted(target, drafter)) == 3


def test_a_checkpoint_without_a_tower_gets_the_targets(target, tmp_path):
    small_llava(tower_of(target)).save_pretrained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    part = without_tower(tmp_path / "part")
    drafter = load_draft_vlm(part, target)
    assert tower_of(drafter.model) is tower_of(target)
    whole = load_draft_vlm(tmp_path / "whole", target)
    prompt = target.prefill(random_inputs(3), "all", 100).prompt
    logits = [d.model.prefill(prompt, torch.tensor([4]), 100) for d in (drafter, whole)]
    assert torch.equal(*logits)
    drafted(target, drafter)


def test_a_checkpoint_without_a_tower_needs_the_targets(target, tmp_path):
    small_llava().save_pretrained(tmp_path)
    without_tower(tmp_path)
    with pytest.raises(HivisError, match="got none for model.vision_tower"):
        load_draft_vlm(tmp_path, target, share_vision=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(HivisError, match="wanted a vision tower, or a configuration for the"):
        load_draft_vlm(tmp_path, target)


def test_other_weights_may_not_be_missing(target, tmp_path):
    small_llava(tower_of(target)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if "multi_modal_projector" in name))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HivisError, match="got none for model.multi_modal_projector"):
        load_draft_vlm(tmp_path, target)


def test_another_image_token_is_refused(target, tmp_path):
    small_llava(image_token_id=7).save_pretrained(tmp_path)
    with pytest.raises(HivisError, match=f"wanted the image token {IMAGE_TOKEN}, got 7"):
        load_draft_vlm(tmp_path, target)


def test_a_text_model(target, tmp_path):
    small_llama(VOCAB).save_pretrained(tmp_path)
    drafter = load_draft_vlm(tmp_path, target)
    assert drafter.rows == "text" and drafter.model.dtype == target.dtype
    drafted(target, drafter, images=2)


def test_an_unknown_family_is_named(target, tmp_path):
    small_llama(VOCAB).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(HivisError, match="model type: wanted one of llava, .*, llama, got gpt2"):
        load_draft_vlm(tmp_path, target)


def test_a_missing_folder_is_no_hub_name(target, tmp_path):
    with pytest.raises(
        HivisError, match="^draft model: wanted a folder or a hub name, got .*/absent$"
    ):
        load_draft_vlm(tmp_path / "absent", target)


# Tokenizers


def text_model_with(folder: Path, vocab: int, pieces: dict[str, Any] | None = None) -> Path:
    small_llama(vocab).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(Path(paths.TARGET) / name, folder)
    if pieces is not None:
        (folder / "tokenizer.json").write_text(json.dumps(pieces))
    return folder


def tokenizer() -> dict[str, Any]:
    return json.loads((Path(paths.TARGET) / "tokenizer.json").read_text())


def test_the_targets_tokenizer_vouches_for_a_smaller_vocabulary(bundled, tmp_path):
    target, processor = bundled
    folder = text_model_with(tmp_path, 2600)
    drafter = load_draft_vlm(folder, target, processor)
    inputs = processor("What is in the image?")
    params = SamplingParams(temperature=1.0, max_new_tokens=12)
    plain = generate(Engine(target), inputs, params)
    assert (
        generate(Engine(target, drafter, FixedPolicy(8, 3, 3)), inputs, params).tokens
        == plain.tokens
    )
    with pytest.raises(HivisError, match="vocabulary: wanted the target's 2688 .* got 2600"):
        generate(Engine(target, load_draft_vlm(folder, target)), inputs, params)


def test_another_tokenizer_is_refused(bundled, tmp_path):
    target, processor = bundled
    pieces = tokenizer()
    vocab = pieces["model"]["vocab"]
    names = {index: piece for piece, index in vocab.items()}
    first, second = names[100], names[101]
    vocab[first], vocab[second] = 101, 100
    folder = text_model_with(tmp_path, 2688, pieces)
    with pytest.raises(HivisError, match="wanted the target's tokenizer, in which 100 is"):
        load_draft_vlm(folder, target, processor)


def test_no_tokenizer_to_compare(bundled, tmp_path):
    target, processor = bundled
    small_llama(2688).save_pretrained(tmp_path)
    with pytest.raises(HivisError, match="wanted a tokenizer to compare with the target's"):
        load_draft_vlm(tmp_path, target, processor)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_bundled_target_drafts_for_itself(bundled, temperature):
    target, processor = bundled
    drafter = load_draft_vlm(paths.TARGET, target, processor)
    assert tower_of(drafter.model) is tower_of(target)
    inputs = processor("What is in the image?", [Path(paths.EVAL) / "scene00.png"])
    params = SamplingParams(temperature=temperature, max_new_tokens=25, eos_token_ids=())
    found = generate(Engine(target, drafter, FixedPolicy(6, 5, 1)), inputs, params)
    assert found.tokens == generate(Engine(target), inputs, params).tokens
    assert set(found.statistics.accepted_lengths[:-1]) == {5}
