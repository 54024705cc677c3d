"""Evaluate a target on held-out images: python -m recipes.tiny.evaluate --target DIR

Every held-out prompt is answered twice, greedily: with its own image and with the image of another
scene. A model that uses the image does well on the first and is near chance on the second.
"""

import argparse
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from hivis.bundled.paths import TARGET
from hivis.bundled.prompts import HeldOutPrompt, held_out_prompts
from hivis.errors import run_cli
from hivis.models.load import load_model
from recipes.tiny.data import IGNORE, Conversations, normalize
from recipes.tiny.tokenizer import prompt_text

Scores = dict[str, list[float]]


def contains(text: str, fact: str) -> bool:
    """Whether the text contains the fact as whole words."""
    return re.search(rf"\b{re.escape(fact)}\b", text) is not None


def score(prompt: HeldOutPrompt, answer: str, scores: Scores) -> None:
    """Add the scores of an answer to `scores`, by topic.

    A description's facts come in threes (noun, color, place), with a sign's word last if there is
    one. The noun must occur; color and place must occur in a sentence with the noun.
    """
    if prompt.kind == "short":
        scores[prompt.topic].append(float(all(contains(answer, f) for f in prompt.facts)))
        return
    sentences = re.split(r"(?<=\.) ", answer)
    for i in range(0, len(prompt.facts) - 2, 3):
        noun, color, place = prompt.facts[i : i + 3]
        about = [s for s in sentences if contains(s, noun)]
        scores["long: thing"].append(float(bool(about)))
        scores["long: colour"].append(float(any(contains(s, color) for s in about)))
        scores["long: place"].append(float(any(contains(s, place) for s in about)))
    if len(prompt.facts) % 3:
        scores["long: word"].append(float(contains(answer, prompt.facts[-1])))


@torch.inference_mode()
def answers(
    model: Any,
    processor: LlavaProcessor,
    prompts: list[tuple[Path, str]],
    max_new_tokens: int,
    batch: int = 25,
) -> list[str]:
    """Greedy answers to (image file, question) pairs."""
    out: list[str] = []
    for i in range(0, len(prompts), batch):
        part = prompts[i : i + batch]
        inputs = processor(
            images=[Image.open(path).convert("RGB") for path, _ in part],
            text=[prompt_text(question, with_image=True) for _, question in part],
            padding=True,
            return_tensors="pt",
        ).to(model.device, model.dtype)
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        out += processor.batch_decode(
            ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return [answer.strip() for answer in out]


@torch.inference_mode()
def perplexity(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, count: int = 6
) -> float:
    """Perplexity per answer token, on `count` batches of 16 conversations about held-out scenes."""
    total, tokens = 0.0, 0
    stream = iter(Conversations(16, processor.tokenizer, seed=-2))
    for _ in range(count):
        batch = next(stream)
        images = normalize(batch.images).to(model.device, model.dtype)
        hidden = model.model(input_ids=batch.ids.to(model.device), pixel_values=images)
        labels = batch.labels[:, 1:].to(model.device)
        kept = labels != IGNORE
        logits = model.lm_head(hidden.last_hidden_state[:, :-1][kept]).float()
        total += F.cross_entropy(logits, labels[kept], reduction="sum").item()
        tokens += int(kept.sum())
    return math.exp(total / tokens)


def evaluate(target: Path, limit: int | None = None) -> dict[str, Any]:
    """Accuracy by topic with the right and with a swapped image, and the perplexity."""
    model: Any = load_model(target, torch.float32)
    processor = AutoProcessor.from_pretrained(target)
    prompts = held_out_prompts()[:limit]
    images = sorted({p.image for p in prompts})
    other = {a: b for a, b in zip(images, images[1:] + images[:1], strict=True)}
    result: dict[str, Any] = {"prompts": len(prompts), "dtype": str(model.dtype)}
    for name in ("right", "swapped"):
        scores: Scores = defaultdict(list)
        words: list[int] = []
        for kind, max_new_tokens in (("short", 48), ("long", 256)):
            asked = [p for p in prompts if p.kind == kind]
            pairs = [(p.image if name == "right" else other[p.image], p.prompt) for p in asked]
            made = answers(model, processor, pairs, max_new_tokens)
            for prompt, answer in zip(asked, made, strict=True):
                score(prompt, answer, scores)
                if kind == "long":
                    words.append(len(answer.split()))
        result[name] = {k: round(sum(v) / len(v), 4) for k, v in sorted(scores.items())}
        result[f"{name}_words_long"] = round(sum(words) / max(1, len(words)), 1)
    result["perplexity"] = round(perplexity(model, processor), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT prompts")
    args = parser.parse_args()
    result = evaluate(args.target, args.limit)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
