"""Questions about generated images, in LLaVA's data format.

    python -m recipes.tiny.conversations --out DIR --count N --seed S

Writes ``DIR/conversations.jsonl`` and ``DIR/images/*.png``. Each conversation
is one human turn, since the target writes the answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.progress import track

from hivis.errors import HivisError, run_cli
from hivis.training.data.atomic import replacing
from hivis.training.data.conversations import IMAGE_MARKER
from recipes.tiny.prompts import training_prompts

FILE = "conversations.jsonl"


def write_conversations(out: Path, count: int, seed: int, progress: bool = False) -> Path:
    """Write ``count`` conversations about training scenes, the same for the same seed.

    Returns:
        The file, which appears when all images are written.
    """
    if count < 1:
        raise HivisError(f"count: wanted at least 1, got {count}")
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    asked = track(training_prompts(seed, count), "drawing", total=count, disable=not progress)
    for number, (image, question) in enumerate(asked):
        record: dict[str, object] = {"id": f"{seed}-{number}"}
        if image is not None:
            record["image"] = f"images/{seed}-{number:06d}.png"
            image.save(out / str(record["image"]))
            question = f"{IMAGE_MARKER}\n{question}"
        record["conversations"] = [{"from": "human", "value": question}]
        lines.append(json.dumps(record) + "\n")
    with replacing(out / FILE) as draft:
        draft.write_text("".join(lines), encoding="utf-8")
    return out / FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    file = write_conversations(options.out, options.count, options.seed, progress=True)
    print(f"{options.count} conversations in {file}")


if __name__ == "__main__":
    run_cli(main)
