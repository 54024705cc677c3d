"""``hivis.load`` and ``hivis.wrap``: texts, streams, and what is left of those that are left."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, TextIteratorStreamer, TextStreamer

import hivis
from hivis.api.model import Model
from hivis.bundled import paths
from hivis.drafters.checkpoint import HiViSConfig, LayerConfig, ViSpecConfig, random_tensors, save
from hivis.drafters.draft_vlm import DraftVLM
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError
from hivis.models.load import load_model
from hivis.policies.confidence import ConfidencePolicy
from hivis.policies.fixed import FixedPolicy
from recipes.tiny.draft import write_draft
from tests.helpers.small_llava import VOCAB, random_llava
from tests.helpers.toy_drafters import OracleDrafter

IMAGE = paths.EVAL / "scene00.png"
QUESTION = "Describe the image in detail."
SETTINGS = [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8, "top_k": 20, "seed": 4}]


@pytest.fixture(scope="module")
def model() -> Model:
    return hivis.load(dtype="float32", device="cpu", policy="fixed")


@pytest.fixture(scope="module")
def drafters(tmp_path_factory) -> dict[str, Path]:
    """One of each kind for the bundled target; the last two have not been trained."""
    folder = tmp_path_factory.mktemp("drafters")
    sizes = json.loads((paths.HIVIS / "config.json").read_text())
    names = {field.name for field in dataclasses.fields(LayerConfig)}
    config = ViSpecConfig(**{name: sizes[name] for name in names & sizes.keys()})
    save(folder / "vispec", config, random_tensors(config, seed=1))
    write_draft(folder / "draft_vlm", paths.TARGET)
    return {
        "hivis": paths.HIVIS,
        "eagle": paths.EAGLE,
        "vispec": folder / "vispec",
        "draft_vlm": folder / "draft_vlm",
    }


def plain(model: Model) -> Model:
    return with_engine(model, drafter=None)


def with_engine(model: Model, **changes) -> Model:
    return Model(dataclasses.replace(model.engine, **changes), model.processor)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_drafted_text_is_the_plain_text(model, settings):
    drafted = model.generate(QUESTION, [IMAGE], max_new_tokens=60, **settings)
    alone = plain(model).generate(QUESTION, [IMAGE], max_new_tokens=60, **settings)
    assert drafted.text == alone.text == str(drafted) and drafted.tokens == alone.tokens
    assert len(drafted.text.split()) > 20
    assert drafted.text == model.processor.decode(drafted.tokens)
    assert drafted.statistics.cycles < alone.statistics.cycles / 2
    assert drafted.finish == alone.finish == "length"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_pieces_of_a_stream_are_the_text(model, settings):
    whole = model.generate(QUESTION, IMAGE, **settings)
    stream = model.stream(QUESTION, IMAGE, **settings)
    with pytest.raises(HivisError, match="^result: wanted"):
        _ = stream.result
    pieces = []
    for piece in stream:
        assert piece
        pieces.append(piece)
        assert stream.text == "".join(pieces)
        assert stream.tokens == whole.tokens[: len(stream.tokens)]
    assert "".join(pieces) == whole.text and stream.tokens == whole.tokens
    assert (stream.result.text, stream.result.finish) == (whole.text, "eos")
    assert list(stream) == []
    chunks = list(model.stream(QUESTION, IMAGE, **settings).chunks())
    assert [len(chunk.tokens) for chunk in chunks[1:]] == [
        length + 1 for length in whole.statistics.accepted_lengths
    ]
    assert all(len(chunk.tokens) == len(chunk.pieces) for chunk in chunks)


def test_the_text_is_that_of_generate(model):
    inputs = model.prepare(QUESTION, IMAGE)
    theirs = load_model(paths.TARGET).generate(
        input_ids=inputs.tokens, attention_mask=torch.ones_like(inputs.tokens), **inputs.features
    )
    assert model.generate(inputs).tokens == tuple(theirs[0, inputs.length :].tolist())


@pytest.mark.parametrize("start", range(0, 60, 7))
@pytest.mark.parametrize("length", [1, 5, 30])
def test_stop_strings_cut_as_in_plain_decoding(model, start, length):
    """Wherever the string ends, inside a cycle's tokens or not."""
    whole = model.generate(QUESTION, IMAGE, max_new_tokens=40, temperature=1.0)
    stop = whole.text[start : start + length]
    cut = [
        chosen.generate(QUESTION, IMAGE, max_new_tokens=40, temperature=1.0, stop=["#", stop])
        for chosen in (model, plain(model))
    ]
    assert cut[0].text == cut[1].text == whole.text[: whole.text.index(stop)]
    assert cut[0].tokens == cut[1].tokens == whole.tokens[: len(cut[0].tokens)]
    assert cut[0].finish == cut[1].finish == "stop"
    shorter = model.processor.decode(cut[0].tokens[:-1])
    assert stop not in shorter, "tokens were drawn after the stop string was there"


def test_a_text_without_the_stop_string_is_whole(model):
    whole = model.generate(QUESTION, IMAGE)
    last = whole.text[-1]
    assert model.generate(QUESTION, IMAGE, stop=last + "!").text == whole.text


class OutOfMemory(FixedPolicy):
    """Raises in the middle of a text, as a device does that has no memory left."""

    def planner(self, *args, **kwargs):
        planner = super().planner(*args, **kwargs)
        calls = iter(range(3))

        def choose():
            if next(calls, None) is None:
                raise torch.OutOfMemoryError("no memory left")
            return planner.plan

        planner.choose = choose
        return planner


def fails(function, error, after):
    """``function``, and ``error`` in its place after so many calls."""
    calls = iter(range(after))

    def failing(*args, **more):
        if next(calls, None) is None:
            raise error
        return function(*args, **more)

    return failing


@pytest.mark.parametrize("kind", ["hivis", "vispec", "eagle", "draft_vlm"])
def test_a_text_that_was_left_leaves_no_trace(model, drafters, kind, monkeypatch):
    loaded = hivis.load(paths.TARGET, drafters[kind], dtype="float32", device="cpu", policy="fixed")
    settings = {"temperature": 1.0, "seed": 5, "max_new_tokens": 32}
    wanted = plain(model).generate(QUESTION, IMAGE, **settings).tokens
    for _ in loaded.stream("What is it?", IMAGE, **settings):
        break
    assert loaded.generate(QUESTION, IMAGE, **settings).tokens == wanted
    with pytest.raises(torch.OutOfMemoryError):
        with_engine(loaded, policy=OutOfMemory()).generate("And?", IMAGE, **settings)
    assert loaded.generate(QUESTION, IMAGE, **settings).tokens == wanted
    forward = loaded.target._forward
    for error in (torch.OutOfMemoryError, KeyboardInterrupt):
        for after in (0, 1, 3):
            monkeypatch.setattr(loaded.target, "_forward", fails(forward, error, after))
            with pytest.raises(error):
                loaded.generate("And this?", IMAGE, **settings)
            monkeypatch.undo()
            assert loaded.generate(QUESTION, IMAGE, **settings).tokens == wanted


def test_the_next_text_ends_a_stream(model):
    stream = model.stream(QUESTION, IMAGE)
    next(stream)
    model.generate("What is it?", IMAGE, max_new_tokens=4)
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        list(stream)


def test_streamers_of_transformers(model, capsys):
    tokenizer = model.processor.processor.tokenizer
    shown = model.generate(
        QUESTION, IMAGE, streamer=TextStreamer(tokenizer, True, skip_special_tokens=True)
    )
    assert capsys.readouterr().out.strip() == shown.text.strip()
    queue = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.generate(QUESTION, IMAGE, streamer=queue)
    assert "".join(queue).strip() == shown.text.strip()


def test_a_streamer_is_told_of_the_end_even_of_a_text_that_fails(model):
    queue = TextIteratorStreamer(model.processor.processor.tokenizer, skip_prompt=True)
    with pytest.raises(torch.OutOfMemoryError):
        with_engine(model, policy=OutOfMemory()).generate(QUESTION, IMAGE, streamer=queue)
    assert "".join(queue)  # would wait forever for an end


def test_wrap_shares_a_model_that_stays_usable():
    loaded = load_model(paths.TARGET)
    processor = AutoProcessor.from_pretrained(paths.TARGET)
    made = processor(text="USER: What? ASSISTANT:", return_tensors="pt")
    before = loaded.generate(**made, max_new_tokens=12)
    wrapped = hivis.wrap(loaded, paths.HIVIS, processor, policy="fixed")
    text = wrapped.generate(QUESTION, IMAGE, max_new_tokens=24)
    assert text.statistics.accepted_length > 1
    assert torch.equal(loaded.generate(**made, max_new_tokens=12), before)
    assert hivis.wrap(loaded).generate(QUESTION, IMAGE, max_new_tokens=24).text == text.text


def test_wrap_takes_a_drafter_object(model):
    inputs = model.prepare(QUESTION, IMAGE)
    whole = plain(model).generate(inputs, max_new_tokens=20)
    vocab = model.target.head.shape[0]
    right = OracleDrafter(vocab, inputs.length, whole.tokens, right=True)
    wrapped = hivis.wrap(model.target.model, right, model.processor.processor)
    assert wrapped.generate(inputs, max_new_tokens=20).tokens == whole.tokens


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hivis", HiViSDrafter),
        ("eagle", HiViSDrafter),
        ("vispec", ViSpecDrafter),
        ("draft_vlm", DraftVLM),
    ],
)
def test_drafters_are_told_apart(drafters, name, kind):
    loaded = hivis.load(paths.TARGET, drafters[name], dtype="float32", device="cpu")
    assert type(loaded.drafter) is kind


def test_published_drafters_are_told_from_small_models(tmp_path):
    """Their config.json names a whole Llama model too."""
    ours = json.loads((paths.HIVIS / "config.json").read_text())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": ours["hidden_size"],
        "intermediate_size": ours["intermediate_size"],
        "num_attention_heads": ours["num_attention_heads"],
        "vocab_size": ours["vocab_size"],
        "num_key_value_heads": ours["num_key_value_heads"],
        "rms_norm_eps": ours["rms_norm_eps"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(paths.HIVIS / "model.safetensors", tmp_path)
    loaded = hivis.load(paths.TARGET, tmp_path, dtype="float32", device="cpu")
    assert isinstance(loaded.drafter, HiViSDrafter)


def test_defaults():
    loaded = hivis.load(device="cpu")
    assert isinstance(loaded.drafter, HiViSDrafter) and loaded.target.device.type == "cpu"
    assert hivis.load(drafter="none", dtype=torch.float16).drafter is None
    other = hivis.load(str(paths.TARGET), policy=ConfidencePolicy(), dtype="float32")
    assert other.drafter is None and isinstance(other.policy, ConfidencePolicy)
    assert other.target.dtype == torch.float32
    assert {"load", "wrap", "Model"} <= set(dir(hivis))
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = hivis.lod


def test_conversations_and_several_images(model):
    turns = [("user", "What is it?"), ("assistant", "A scene."), ("user", "Describe it.")]
    assert model.generate(turns, IMAGE, max_new_tokens=8).text
    assert model.generate("Compare them.", [IMAGE, IMAGE], max_new_tokens=8).text
    assert model.generate("Hello", max_new_tokens=3).text


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "/nowhere"},
        {"model": Path("nowhere")},
        {"drafter": "/nowhere"},
        {"drafter": paths.EVAL},
        {"dtype": "int8"},
        {"dtype": torch.int8},
        {"device": "tpu"},
        {"device": "cuda:99"},
        {"policy": "best"},
        {"device": 3.5},
    ],
    ids=str,
)
def test_bad_arguments_of_load_are_named(bad):
    with pytest.raises(HivisError) as error:
        hivis.load(**bad)
    assert "wanted" in str(error.value) and "\n" not in str(error.value)


def test_a_drafter_of_another_target_is_refused(tmp_path):
    config = HiViSConfig(64, 96, 4, 4, 16, VOCAB)
    save(tmp_path, config, random_tensors(config, seed=1))
    with pytest.raises(HivisError, match="wanted"):
        hivis.load(drafter=tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("model", "processor"),
    [
        ("a name", None),
        (torch.nn.Linear(2, 2), None),
        (random_llava(), None),
        (random_llava(), object()),
    ],
    ids=["text", "layer", "no processor", "no processor's kind"],
)
def test_bad_arguments_of_wrap_are_named(model, processor):
    with pytest.raises(HivisError, match="^(model|processor): wanted .*, got "):
        hivis.wrap(model, processor=processor)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": ""}, {"prompt": 5}, {"prompt": [("user",)]}, {"prompt": []},
        {"prompt": [("assistant", "Hi")]}, {"images": "nowhere.png"}, {"images": [3]},
        {"no_repeat_ngram_size": 3}, {"repetition_penalty": 0}, {"num_beams": 4},
        {"temperature": -1}, {"temperature": float("nan")}, {"max_new_tokens": 10**6},
        {"nonsense": 1}, {"stop": [""]}, {"seed": "x"}, {"images": 5},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments_of_generate_are_named(model, bad):
    with pytest.raises(HivisError) as error:
        model.generate(**{"prompt": QUESTION, **bad})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    with pytest.raises(HivisError, match="^images: wanted none"):
        model.generate(model.prepare(QUESTION), IMAGE)
