"""Tokenizer, labels, model shape and (where they are) the shipped weights of recipes.tiny."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from hivis.bundled.paths import TARGET
from recipes.tiny.data import IGNORE, Conversations, encode, normalize, patch_labels, pixels
from recipes.tiny.model import FIRST_LAYERS, LAYERS, make_target, target_config, use_layers
from recipes.tiny.questions import conversation
from recipes.tiny.scenes import draw_scene, make_scene
from recipes.tiny.tokenizer import IMAGE, make_processor, prompt_text, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


def test_tokenizer_round_trip_and_one_token_words(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(20):
        for turn in conversation(make_scene(seed), random.Random(seed)):
            ids = tokenizer(" " + turn.answer, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == " " + turn.answer
            assert len(ids) <= 1.5 * len(turn.answer.split()) + 2
    text = "Żółw — 海亀, naïve?"  # words never seen still go through, in bytes
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_labels_cover_the_answers_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = conversation(make_scene(3), random.Random(3))
    ids, labels = encode(turns, tokenizer, image_tokens=100)
    assert ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 100
    told = tokenizer.decode([label for label in labels if label != IGNORE])
    assert told == "".join(f" {t.answer}</s>" for t in turns)
    assert all(label in (IGNORE, i) for i, label in zip(ids, labels, strict=True))


def test_training_ids_are_the_processor_s(tokenizer: PreTrainedTokenizerFast) -> None:
    scene = make_scene(3)
    turn = conversation(scene, random.Random(3))[0]
    processor = make_processor(tokenizer)
    parts = [{"type": "image"}, {"type": "text", "text": turn.question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    assert text == prompt_text(turn.question, with_image=True)
    inputs = processor(images=draw_scene(scene), text=text, return_tensors="pt")
    prompt = inputs["input_ids"][0].tolist()
    assert encode([turn], tokenizer, 100)[0][: len(prompt)] == prompt
    assert torch.allclose(inputs["pixel_values"][0], normalize(pixels(scene)), atol=1e-6)


def test_batches_are_padded_right_and_reproducible(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (next(iter(Conversations(4, tokenizer, seed=1))) for _ in range(2))
    assert torch.equal(first.ids, second.ids) and torch.equal(first.images, second.images)
    assert (first.labels[first.ids == tokenizer.pad_token_id] == IGNORE).all()
    assert (first.ids[:, 0] == tokenizer.bos_token_id).all()


def test_patch_labels_name_every_thing() -> None:
    scene = make_scene(8)
    named = set(patch_labels(scene)[..., 0].flatten().tolist())
    wanted = {2 + i.thing.index for i in scene.items} | ({1} if scene.sign else set())
    assert named - {0, IGNORE} == wanted


def test_new_layers_start_as_identities(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_target(tokenizer).eval()
    layers = model.model.language_model.layers
    ids = torch.tensor([tokenizer("What is a cat?")["input_ids"]])
    with torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits
        use_layers(model, layers, all_of_them=False)
        assert len(model.model.language_model.layers) == len(FIRST_LAYERS) < LAYERS
        few = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(whole, few, atol=1e-5)


def test_shipped_target_loads_and_reads_an_image(tokenizer: PreTrainedTokenizerFast) -> None:
    folder = Path(TARGET)
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert model.config.to_dict()["text_config"]["num_hidden_layers"] == LAYERS
    assert model.config.image_seq_length == target_config(tokenizer).image_seq_length
    text = prompt_text("What word is on the sign?", with_image=True)
    scene = next(s for s in map(make_scene, range(50)) if s.sign)
    inputs = processor(images=draw_scene(scene), text=text, return_tensors="pt").to(model.dtype)
    out = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    assert scene.sign and scene.sign.word in processor.batch_decode(out)[0]
