"""Scenes, questions and assets of recipes.tiny: deterministic, true, attributed, held-out apart."""

import json
import random

import pytest
from PIL import Image

from hivis.bundled.prompts import held_out_prompts
from recipes.tiny.paths import ASSETS
from recipes.tiny.prompts import held_out_scene, training_prompts
from recipes.tiny.questions import ABOUT, conversation, describe, long_turn
from recipes.tiny.scenes import (
    CANVAS,
    COLUMNS,
    HELD_OUT_SEEDS,
    PLACES,
    SPRITE_SIZE,
    draw_scene,
    is_reserved,
    make_scene,
)


@pytest.mark.parametrize("seed", [0, 1, 12345, HELD_OUT_SEEDS + 3])
def test_a_seed_gives_one_scene_and_one_image(seed: int) -> None:
    first, second = make_scene(seed), make_scene(seed)
    assert first == second
    assert draw_scene(first).tobytes() == draw_scene(second).tobytes()
    assert draw_scene(first).size == (CANVAS, CANVAS)


def test_scenes_keep_their_promises() -> None:
    for seed in range(300):
        scene = make_scene(seed)
        places = [i.place for i in scene.items] + ([scene.sign.place] if scene.sign else [])
        assert 2 <= len(scene.items) <= 4 and len(set(places)) == len(places)
        assert [i.place for i in scene.items] == sorted(i.place for i in scene.items)
        assert all(i.size == "small" for i in scene.items if i.count > 1)
        assert len({i.thing for i in scene.items}) == len(scene.items)


def test_reserved_pairs_tell_training_from_held_out_scenes() -> None:
    def reserved(seed: int) -> bool:
        return any(is_reserved(i.thing, i.color) for i in make_scene(seed).items)

    assert not any(reserved(seed) for seed in range(200))
    assert all(reserved(HELD_OUT_SEEDS + seed) for seed in range(200))
    assert all(held_out_scene(n).seed >= HELD_OUT_SEEDS for n in range(50))


def test_every_asset_has_its_attribution() -> None:
    records = json.loads((ASSETS / "objects.json").read_text())
    assert len({r["name"] for r in records}) == len(records) >= 120
    assert all(r["gloss"] and r["code_point"] and r["drawn_by"] and r["synset"] for r in records)
    rows = -(-len(records) // COLUMNS)
    assert Image.open(ASSETS / "sprites.png").size == (COLUMNS * SPRITE_SIZE, rows * SPRITE_SIZE)
    licenses = (ASSETS / "LICENSES.md").read_text()
    assert "CC BY-SA 4.0" in licenses and "WordNet 3.0 Copyright 2006" in licenses


def test_descriptions_are_true_and_of_the_promised_length() -> None:
    for seed in range(100):
        scene = make_scene(seed)
        text = describe(scene, random.Random(seed))
        assert 55 <= len(text.split()) <= 125
        for item in scene.items:
            noun = item.thing.name if item.count == 1 else item.thing.plural
            told = [s for s in text.split(". ") if item.color in s and noun in s]
            assert any(PLACES[item.place] in s for s in told), (text, item)
        if scene.sign:
            assert scene.sign.word in text


@pytest.mark.parametrize("topic", ABOUT)
def test_short_answers_contain_their_facts(topic: str) -> None:
    for seed in range(50):
        turn = ABOUT[topic](make_scene(seed), random.Random(seed))
        assert turn.kind == "short" and turn.facts
        assert all(fact in turn.answer for fact in turn.facts)


def test_conversations_have_one_long_turn_and_real_choices() -> None:
    scene = make_scene(5)
    turns = conversation(scene, random.Random(0))
    assert sum(t.kind == "long" for t in turns) == 1 and 3 <= len(turns) <= 6
    assert len({long_turn(scene, random.Random(s)).answer for s in range(20)}) > 15


def test_prompts() -> None:
    some = list(training_prompts(seed=1, count=200))
    again = list(training_prompts(seed=1, count=200))
    assert [q for _, q in some] == [q for _, q in again]
    assert 0 < sum(image is None for image, _ in some) < 30
    kept = held_out_prompts()
    assert len({p.id for p in kept}) == len(kept) == 400
    assert {p.kind for p in kept} == {"long", "short"}


def test_held_out_files_are_what_the_generator_draws() -> None:
    for number, prompt in enumerate(p for p in held_out_prompts() if p.kind == "long"):
        drawn = draw_scene(held_out_scene(number))
        assert Image.open(prompt.image).convert("RGB").tobytes() == drawn.tobytes()
