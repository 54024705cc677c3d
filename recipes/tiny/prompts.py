"""Prompts about training scenes, and the held-out prompts that are bundled with hivis."""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from hivis.bundled.paths import EVAL
from hivis.bundled.prompts import HeldOutPrompt
from recipes.tiny.questions import ABOUT, Turn, about_meaning, long_turn
from recipes.tiny.scenes import HELD_OUT_SEEDS, Scene, draw_scene, make_scene, things

HELD_OUT_COUNT = 50


def training_prompts(seed: int, count: int) -> Iterator[tuple[Image.Image | None, str]]:
    """`count` pairs (image or None, question) about training scenes.

    Six in ten ask for a description, one in twenty has no image, the rest are short questions.
    """
    rng = random.Random(f"hivis prompts {seed}")
    for _ in range(count):
        choice = rng.random()
        if choice < 0.05:
            yield None, about_meaning(rng.choice(things()), rng).question
            continue
        scene = make_scene(rng.randrange(HELD_OUT_SEEDS))
        if choice < 0.65:
            turn = long_turn(scene, rng)
        else:
            turn = rng.choice(tuple(ABOUT.values()))(scene, rng)
        yield draw_scene(scene), turn.question


def held_out_scene(number: int) -> Scene:
    """The scene of held-out image `number`; its seed is outside the range of training seeds."""
    return make_scene(HELD_OUT_SEEDS + 1000 + number)


def held_out_turns(scene: Scene) -> Iterator[tuple[str, Turn]]:
    """(topic, turn): one long question about a held-out scene, and a short one on every topic."""
    rng = random.Random(f"hivis held out {scene.seed}")
    yield "long", long_turn(scene, rng)
    for topic, ask in ABOUT.items():
        yield topic, ask(scene, rng)


def write_held_out(folder: Path = EVAL, count: int = HELD_OUT_COUNT) -> int:
    """Write the images and `prompts.jsonl`; return the number of prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        scene = held_out_scene(number)
        image = f"scene{number:02d}.png"
        draw_scene(scene).save(folder / image, optimize=True)
        for topic, turn in held_out_turns(scene):
            record = asdict(
                HeldOutPrompt(
                    f"{number:02d}-{topic}",
                    Path(image),
                    turn.question,
                    turn.kind,
                    topic,
                    turn.facts,
                )
            )
            lines.append(json.dumps(record | {"image": image}))
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the held-out images and prompts.")
    parser.add_argument("--out", type=Path, default=EVAL)
    parser.add_argument("--count", type=int, default=HELD_OUT_COUNT)
    args = parser.parse_args()
    print(f"{write_held_out(args.out, args.count)} prompts in {args.out}")
