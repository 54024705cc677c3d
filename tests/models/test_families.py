"""Every family of models, from a checkpoint on disk: the text of generate(), drafted or not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from hivis.api.load_drafter import load_draft_vlm
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.drafters.vispec import image_spans
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.load import load_model, load_target
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from hivis.training.data.answers import Answerer, answer
from hivis.training.data.samples import Columns
from hivis.training.learners.vispec import cut_images, vispec_rows
from hivis.training.options import TrainOptions
from hivis.training.train import make_learner
from tests.helpers.families import VOCAB, images
from tests.helpers.family_prompts import FAMILIES, PROMPTS, ask, asked_of
from tests.helpers.small_drafters import family_drafters
from tests.helpers.toy_drafters import OracleDrafter, RandomDrafter

POLICY = FixedPolicy(16, 4, 4)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_plain_greedy_is_generate(family_target, kind, prompt):
    target, processor = family_target(kind)
    said: set[int] = set()
    for seed in range(2):
        inputs = ask(processor, prompt, seed)
        theirs = target.model.generate(
            **asked_of(target, inputs), max_new_tokens=24, do_sample=False
        )
        ours = generate(Engine(target), inputs, SamplingParams(max_new_tokens=24))
        assert list(ours.tokens) == theirs[0, inputs.length :].tolist()
        said.update(ours.tokens)
    assert len(said) > 8  # texts that stand still would show nothing


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_any_drafter_gives_the_plain_text(family_target, kind, prompt, temperature):
    target, processor = family_target(kind)
    inputs = ask(processor, prompt)
    params = SamplingParams(temperature=temperature, max_new_tokens=24, seed=3)
    plain = generate(Engine(target), inputs, params)
    guessers = {
        "random": RandomDrafter(VOCAB),
        "right": OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True),
    }
    for name, drafter in (guessers | family_drafters()).items():
        drafted = generate(Engine(target, drafter, POLICY), inputs, params)
        assert drafted.tokens == plain.tokens, name
        if name == "right":
            assert drafted.statistics.accepted_length > 1


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_and_positions_are_those_of_the_model_itself(family_target, kind, prompt):
    """Positions of the prompt and of tree nodes, and what they lead to, against one whole pass."""
    target, processor = family_target(kind)
    inputs = ask(processor, prompt)
    ours, theirs = [], []
    rotary = target.language_model.rotary_emb

    def spy(into: list[torch.Tensor]) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            position_ids = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
            into.append(position_ids.reshape(-1, position_ids.shape[-1]).expand(3, -1))

        return rotary.register_forward_pre_hook(hook, with_kwargs=True)

    plain = generate(Engine(target), inputs, SamplingParams(max_new_tokens=12))
    with spy(ours):
        drafter = OracleDrafter(VOCAB, inputs.length, plain.tokens, right=True)
        generate(
            Engine(target, drafter, FixedPolicy(2, 1, 1)), inputs, SamplingParams(max_new_tokens=12)
        )
    with spy(theirs):
        target.model.generate(**asked_of(target, inputs), max_new_tokens=12, do_sample=False)
    # A tree of two: the root, and the token behind it. Each cycle but the last takes both.
    wanted = torch.cat(theirs, 1)
    assert torch.equal(torch.cat(ours, 1)[:, : wanted.shape[1]], wanted)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_drafter_is_shown(family_target, kind, prompt):
    target, processor = family_target(kind)
    inputs = ask(processor, prompt)
    with torch.inference_mode():
        whole = target.model.model(**asked_of(target, inputs)).last_hidden_state
    slots = inputs.tokens[0] == target.model.config.image_token_id
    every = target.prefill(inputs, "all", inputs.length + 1).prompt
    text = target.prefill(inputs, "text", inputs.length + 1).prompt
    torch.testing.assert_close(every.hidden, whole, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(text.hidden, whole[:, ~slots], rtol=1e-3, atol=1e-3)
    assert torch.equal(every.visual[0], slots) and not text.visual.any()
    spans = image_spans(every)
    assert len(spans) == PROMPTS[prompt]
    if kind == "llava":
        return
    # No two images are of one size: each alone has the rows that its span has.
    for (begin, end), image in zip(spans, images(len(spans)), strict=True):
        assert slots[begin] and slots[end - 1]
        alone = processor("What is this?", [image])
        ((first, last),) = target.family.spans(target.model, alone.tokens, alone.features)
        assert torch.equal(inputs.tokens[0, begin:end], alone.tokens[0, first:last])
        looked = target.prefill(alone, "all", alone.length + 1).prompt
        torch.testing.assert_close(
            every.embeddings[0, begin:end], looked.embeddings[0, first:last], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_that_drafts_for_itself_is_always_right(
    family_target, family_checkpoint, kind, prompt
):
    """A draft model of each family: its rows and positions must be its target's."""
    target, processor = family_target(kind)
    inputs = ask(processor, prompt)
    drafter = load_draft_vlm(family_checkpoint(kind), target, processor)
    assert drafter.model.shares_vision is (kind == "llava")
    params = SamplingParams(temperature=1.0, max_new_tokens=21, seed=5)
    drafted = generate(Engine(target, drafter, FixedPolicy(5, 4, 1)), inputs, params)
    assert drafted.tokens == generate(Engine(target), inputs, params).tokens
    assert drafted.statistics.accepted_lengths == (4,) * 4


def test_a_draft_model_of_another_family_is_refused(family_target, family_checkpoint):
    target, processor = family_target("llava")
    with pytest.raises(HivisError, match="wanted one of the target's kind, llava, or a language"):
        load_draft_vlm(family_checkpoint("llava_next"), target, processor)


def test_qwen_positions_lag_behind_the_rows(family_target):
    target, processor = family_target("qwen2_5_vl")
    inputs = ask(processor, "one")
    position = target.family.positions(target.model, inputs)
    ((begin, end),) = target.family.spans(target.model, inputs.tokens, inputs.features)
    _, height, width = (inputs.features["image_grid_thw"][0] // 2).tolist()
    assert end - begin == height * width
    assert position[:, 0, begin - 1].tolist() == [begin - 1] * 3
    assert position[0, 0, begin:end].unique().tolist() == [begin]
    assert position[1, 0, begin:end].tolist() == [
        begin + row for row in range(height) for _ in range(width)
    ]
    assert position[2, 0, begin:end].tolist() == [*range(begin, begin + width)] * height
    assert position[:, 0, end].tolist() == [begin + max(height, width)] * 3


@pytest.mark.parametrize("kind", ["llava_next", "qwen2_5_vl", "smolvlm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(family_checkpoint, kind, dtype):
    target, processor = load_target(family_checkpoint(kind), dtype)
    inputs = ask(processor, "three")
    assert all(
        value.dtype == dtype if name == "pixel_values" else not value.is_floating_point()
        for name, value in inputs.features.items()
    )
    params = SamplingParams(temperature=1.0, max_new_tokens=16)
    for drafter in family_drafters().values():
        assert len(generate(Engine(target, drafter, POLICY), inputs, params).tokens) == 16


def test_a_slot_in_a_qwen_question_has_its_markers(family_target):
    _, processor = family_target("qwen2_5_vl")
    (image,) = images(1)
    bare = processor("Is <|image_pad|> it?", [image])
    whole = processor("Is <|vision_start|><|image_pad|><|vision_end|> it?", [image])
    assert torch.equal(bare.tokens, whole.tokens)
    start, end = processor.processor.tokenizer.convert_tokens_to_ids(
        ["<|vision_start|>", "<|vision_end|>"]
    )
    assert bare.tokens[0].tolist().count(start) == bare.tokens[0].tolist().count(end) == 1


def edited(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a checkpoint whose config says something else; of the text model by ``text_``."""
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        inner = name.removeprefix("text_")
        (config if inner == name else config["text_config"])[inner] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


REFUSED = {
    "sliding window": (
        "qwen2_5_vl",
        {
            "text_use_sliding_window": True,
            "text_sliding_window": 32,
            "text_max_window_layers": 1,
            "text_layer_types": None,
        },
        "wanted full attention in every layer, got sliding_attention",
    ),
    "sliding window of a Mistral": (
        "llava_next",
        {"text_model_type": "mistral", "text_sliding_window": 32},
        "wanted full attention in every layer, got sliding_window=32",
    ),
    "moving rope": (
        "llava_next",
        {"text_rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        "wanted rotary embeddings that stay as they are, got dynamic",
    ),
    "quantized": (
        "llava",
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantization_config: wanted plain weights, got bitsandbytes",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_we_do_not_do_is_refused_by_name(family_checkpoint, tmp_path, what):
    kind, changes, message = REFUSED[what]
    folder = edited(family_checkpoint(kind), tmp_path, **changes)
    with pytest.raises(HivisError, match=message) as error:
        load_target(folder)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="wants no torchvision")
def test_what_a_processor_lacks_is_named(family_checkpoint, tmp_path):
    folder = edited(family_checkpoint("smolvlm"), tmp_path)
    for name in ("processor_config.json", "tokenizer_config.json"):
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(said | {"processor_class": "SmolVLMProcessor"}))
    with pytest.raises(HivisError, match="not installed here: torchvision"):
        load_target(folder)


def test_a_model_spread_over_devices_is_refused(family_checkpoint):
    model = load_model(family_checkpoint("llava_next"))
    model.lm_head.to("meta")
    with pytest.raises(HivisError, match="wanted all weights on one device, got cpu, meta"):
        HuggingFaceTarget(model, load_target(family_checkpoint("llava_next"))[0].family)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "sliding_window"])
def test_attention_that_is_not_ours_is_refused_by_name(family_target, name):
    from hivis.models.tree_attention import attention

    query = torch.randn(1, 2, 3, 16)
    with pytest.raises(HivisError, match=f"wanted a layer without {name}"):
        attention(torch.nn.Module(), query, query, query, None, scaling=1.0, **{name: 8})


@pytest.mark.parametrize(
    ("kind", "name"), [("llava_next", "image_sizes"), ("qwen2_5_vl", "image_grid_thw")]
)
def test_features_that_are_missing_are_named(family_target, kind, name):
    target, processor = family_target(kind)
    inputs = ask(processor, "one")
    features = {key: value for key, value in inputs.features.items() if key != name}
    with pytest.raises(HivisError, match=f"features: wanted {name}"):
        generate(Engine(target), Inputs(inputs.tokens, features), SamplingParams(max_new_tokens=4))


@pytest.mark.parametrize("kind", FAMILIES)
def test_placeholders_must_match_the_visual_rows(family_target, kind):
    target, processor = family_target(kind)
    inputs = ask(processor, "one")
    token = target.model.config.image_token_id
    at = int((inputs.tokens[0] == token).nonzero()[-1])
    more = torch.cat(
        [inputs.tokens[:, :at], inputs.tokens[:, at : at + 1], inputs.tokens[:, at:]], 1
    )
    rows = int((more == token).sum())
    with pytest.raises(HivisError, match=f"visual rows, got {rows}"):
        generate(Engine(target), Inputs(more, inputs.features), SamplingParams(max_new_tokens=4))


@pytest.mark.parametrize("kind", ["llava_next", "qwen2_5_vl", "qwen2_vl", "idefics3", "smolvlm"])
def test_answers_to_a_batch_are_those_to_each_prompt_alone(family_target, kind):
    """What a capture keeps: prompts of other lengths and images, one of them without any."""
    target, processor = family_target(kind)
    prompts = [ask(processor, prompt) for prompt in ("one", "none", "turns")]
    answerer = Answerer(target.model, target.family, prepare=lambda inputs: inputs, conversation=id)
    columns = Columns("edges", images=True)
    together = answer(answerer, prompts, [0, 1, 2], columns, 8, greedy=True)
    for inputs, sample, count in zip(prompts, together, (1, 0, 3), strict=True):
        said = generate(Engine(target), inputs, SamplingParams(max_new_tokens=8)).tokens
        assert sample.tokens.tolist() == inputs.tokens[0].tolist() + list(said)
        shown = target.prefill(inputs, "all", inputs.length + 1).prompt
        assert [tuple(span) for span in sample.spans.tolist()] == list(shown.spans)
        rows = sample.kept[: inputs.length]
        torch.testing.assert_close(
            sample.hidden[: int(rows.sum())], shown.hidden[0, rows], rtol=1e-3, atol=1e-3
        )
        parts = cut_images(sample)
        assert len(parts) == count
        for part, (begin, end) in zip(parts, shown.spans, strict=True):
            visual = shown.visual[0, begin:end]
            torch.testing.assert_close(
                part, shown.embeddings[0, begin:end][visual], rtol=1e-3, atol=1e-3
            )
        # The drafter in training reads the rows that it reads in use.
        vispec = family_drafters()["vispec"]
        vispec.bind(target.embedding, target.head)
        vispec.prefill(shown, torch.tensor([said[0]]), len(sample) + 1)
        reading, _, _ = vispec_rows(sample, vispec.config.queries)
        answered = len(sample) - inputs.length
        assert vispec.rows_read == len(reading.source) - answered + 1


@pytest.mark.parametrize("method", ["hivis", "eagle", "vispec"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_new_drafter_is_made_for_its_target(family_checkpoint, kind, method):
    folder = family_checkpoint(kind)
    options = TrainOptions(method, str(folder), folder, folder)
    config = make_learner(options, folder, None)[0].config
    qwen = kind.startswith("qwen")
    assert config.attention_bias is qwen
    if method == "hivis":
        hides = (config.positions, config.hide_before, config.hide_after)
        assert hides == (("original", 1, 1) if qwen else ("kept", 0, 0))
