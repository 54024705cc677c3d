"""Conversations: the answers of whole prefills, without reading again what has been read."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import hivis
from hivis.api.chat import Chat
from hivis.api.model import Model
from hivis.bundled import paths
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.engine import Engine
from hivis.engine.generate import generate
from hivis.errors import HivisError
from hivis.models.prefix_reuse import ContinuedTarget
from hivis.models.target import HuggingFaceTarget
from hivis.policies.fixed import FixedPolicy
from tests.helpers.families import images
from tests.helpers.small_drafters import family_drafters, hivis_drafter
from tests.helpers.small_llava import IMAGE_TOKEN, random_inputs, random_target

IMAGES = [paths.EVAL / "scene00.png", paths.EVAL / "scene01.png"]
QUESTIONS = ["What is in the image?", "What does the sign say?", "Describe it in detail."]


@pytest.fixture(scope="module")
def model():
    return hivis.load(dtype="float32", device="cpu", policy="fixed")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafter", ["hivis", "none"])
def test_every_answer_is_that_of_a_whole_prefill(model, temperature, drafter, monkeypatch):
    if drafter == "none":
        model = Model(dataclasses.replace(model.engine, drafter=None), model.processor)
    looks = []
    look = model.target.family.look

    def looked(*args):
        looks.append(args)
        return look(*args)

    settings = {"temperature": temperature, "seed": 3, "max_new_tokens": 40}
    talk, turns = Chat(model), []
    for place, question in enumerate(QUESTIONS):
        monkeypatch.setattr(model.target.family, "look", looked)
        stream = talk.say(question, IMAGES[:1] if not place else (), **settings)
        said = "".join(stream)
        monkeypatch.undo()
        turns.append(("user", ("" if place else "<image>") + question))
        # The chat's own cache must not be touched in between, so this one is loaded again.
        target = HuggingFaceTarget(model.target.model, model.target.family)
        fresh = Model(dataclasses.replace(model.engine, target=target), model.processor)
        assert said == fresh.generate(turns, IMAGES[:1], **settings).text
        assert stream.result.text == said
        turns.append(("assistant", said))
    assert len(looks) == 1, "the image was read again"


def test_a_second_image_is_read_with_the_first(model):
    talk = Chat(model)
    first = "".join(talk.say(QUESTIONS[0], IMAGES[0], max_new_tokens=20))
    second = "".join(talk.say(QUESTIONS[1], IMAGES[1], max_new_tokens=20))
    turns = [("user", "<image>" + QUESTIONS[0]), ("assistant", first)]
    turns.append(("user", "<image>" + QUESTIONS[1]))
    assert second == model.generate(turns, IMAGES, max_new_tokens=20).text


def test_an_answer_that_was_left_ends_there(model):
    talk = Chat(model)
    for _ in (stream := talk.say(QUESTIONS[0], IMAGES[0], max_new_tokens=40)):
        break
    talk.say(QUESTIONS[1], max_new_tokens=4)
    assert talk.turns == [("user", "<image>" + QUESTIONS[0]), ("assistant", stream.text)]
    talk.say(QUESTIONS[2], max_new_tokens=4)
    assert len(talk.turns) == 2, "an answer of which nothing was read was not asked for"
    assert "".join(talk.say(QUESTIONS[2], max_new_tokens=12))


def test_other_texts_of_the_model_in_between(model):
    talk, other = Chat(model), Chat(model)
    first = "".join(talk.say(QUESTIONS[0], IMAGES[0], max_new_tokens=20))
    "".join(other.say(QUESTIONS[0], IMAGES[1], max_new_tokens=20))
    second = "".join(talk.say(QUESTIONS[1], max_new_tokens=20))
    turns = [("user", "<image>" + QUESTIONS[0]), ("assistant", first), ("user", QUESTIONS[1])]
    assert second == model.generate(turns, IMAGES[:1], max_new_tokens=20).text


@pytest.mark.parametrize("bad", ["", "  ", 3, "two <image>"])
def test_bad_texts_are_named(model, bad):
    with pytest.raises(HivisError, match="^text: wanted"):
        Chat(model).say(bad)


@pytest.mark.parametrize("new", [1, 5, 63, 64, 65, 130])
@pytest.mark.parametrize("rows", ["none", "text", "all"])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_rows_are_kept_wherever_the_prompts_part(new, rows, chunk):
    """A random model, whose every wrong row shows; prompts that go on and prompts that branch."""
    drafter = None if rows == "none" else hivis_drafter(rows=rows)
    continued, policy = ContinuedTarget(random_target()), FixedPolicy(8, 3, 3)
    continued.target.chunk = chunk
    make = torch.Generator().manual_seed(new)
    inputs = random_inputs(2, text=8)
    image_ends = int((inputs.tokens[0] == IMAGE_TOKEN).nonzero().max()) + 1
    params = SamplingParams(temperature=1.0, seed=4, max_new_tokens=10)
    generate(Engine(continued, drafter, policy), inputs, params)
    for back in (0, 1, inputs.length - image_ends):
        kept = inputs.tokens[:, : inputs.length - back]
        more = torch.randint(3, IMAGE_TOKEN, (1, new), generator=make)
        longer = Inputs(torch.cat([kept, more], 1), inputs.features)
        said = generate(Engine(continued, drafter, policy), longer, params)
        assert continued.kept >= kept.shape[1] - 1
        assert (
            said.tokens == generate(Engine(random_target(), drafter, policy), longer, params).tokens
        )
        generate(Engine(continued, drafter, policy), inputs, params)


@pytest.mark.parametrize("part", [1, 2])
def test_a_prefill_that_failed_is_not_gone_on_from(monkeypatch, part):
    continued, inputs = ContinuedTarget(random_target()), random_inputs(2)
    continued.target.chunk = 4
    params = SamplingParams(temperature=1.0, seed=1, max_new_tokens=9)
    wanted = generate(Engine(continued), inputs, params).tokens
    assert len(set(wanted)) > 4
    longer = Inputs(torch.cat([inputs.tokens, inputs.tokens[:, :8]], 1), inputs.features)
    read, passes = continued.target._forward, []

    def fails(*args, **kwargs):
        passes.append(args)
        if len(passes) == part:
            raise torch.OutOfMemoryError
        return read(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(continued.target, "_forward", fails)
        with pytest.raises(torch.OutOfMemoryError):
            generate(Engine(continued), longer, params)
        assert continued.kept == inputs.length
    assert generate(Engine(continued), inputs, params).tokens == wanted and continued.kept == 0
    other = Inputs(inputs.tokens, {"pixel_values": inputs.features["pixel_values"] + 1})
    generate(Engine(continued), other, params)
    assert continued.kept == 0


def test_the_last_turn_is_given_back_once_its_rows_have_moved():
    continued, inputs = ContinuedTarget(random_target()), random_inputs(2)
    continued.prefill(inputs, "none", 60)
    old = continued.cache
    longer = Inputs(torch.cat([inputs.tokens, inputs.tokens[:, :8]], 1), inputs.features)
    continued.prefill(longer, "none", 70)
    assert continued.kept == inputs.length
    assert old.rows == 0 and continued.cache.rows == 70
    continued.prefill(inputs, "text", 60)  # other states are wanted, so all is read again
    assert continued.kept == 0 and continued.cache.rows == 60


def test_a_stream_does_not_go_on_behind_the_next_turn(model):
    talk = Chat(model)
    left = talk.say(QUESTIONS[0], IMAGES[0], max_new_tokens=20)
    next(left)
    "".join(talk.say(QUESTIONS[1], max_new_tokens=4))
    with pytest.raises(HivisError, match="^sequence: wanted target and drafter to itself"):
        list(left)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava_next", "idefics3"])
def test_the_positions_of_every_family_go_on(kind, family_target):
    """Where an image has fewer positions than rows, so have the turns behind it."""
    target, processor = family_target(kind)
    other = HuggingFaceTarget(target.model, target.family)
    continued, params = ContinuedTarget(target), SamplingParams(max_new_tokens=16)
    for name, drafter in {"none": None, **family_drafters()}.items():
        turns = []
        for question in ("What is it?", "Why?", "And then?"):
            turns += [("user", question)]
            inputs = processor.conversation(turns, images(2))
            ours = generate(Engine(continued, drafter, FixedPolicy(8, 3, 3)), inputs, params)
            assert bool(continued.kept) == (len(turns) > 1)
            plain = generate(Engine(other), inputs, params)
            assert ours.tokens == plain.tokens, name
            turns += [("assistant", processor.decode(plain.tokens) or "nothing")]
        continued = ContinuedTarget(target)


def test_an_image_that_moves_is_read_again():
    """The same features say nothing of where in the prompt an image stands."""
    continued, params = ContinuedTarget(random_target()), SamplingParams(max_new_tokens=12)
    inputs = random_inputs(2, text=8)
    slots = inputs.tokens[0] == IMAGE_TOKEN
    words, image = inputs.tokens[:, ~slots], inputs.tokens[:, slots]
    for place in (2, 5, 3):
        moved = torch.cat([words[:, :place], image, words[:, place:]], 1)
        moved = Inputs(moved, inputs.features)
        said = generate(Engine(continued), moved, params)
        assert continued.kept == 0
        assert said.tokens == generate(Engine(random_target()), moved, params).tokens
