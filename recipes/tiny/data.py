"""Training batches: pictures, token ids and labels (answers only), made on the fly by a worker."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast

from recipes.tiny.model import target_config
from recipes.tiny.questions import Turn, conversation, text_only
from recipes.tiny.scenes import (
    HELD_OUT_SEEDS,
    PLACES,
    TILE_COLOURS,
    WORDS,
    Scene,
    Sign,
    draw_scene,
    make_scene,
    things,
)
from recipes.tiny.tokenizer import IMAGE, prompt_text

IGNORE = -100
TEXT_ONLY_SHARE = 0.05
POOL = 8  # batches drawn together and sorted by length, so that little is padding
GRID = 10


@dataclass(frozen=True)
class Batch:
    """`pictures` [R,3,160,160] uint8 (R <= B: some have none), `ids` and `labels` [B,P] i64."""

    pictures: Tensor
    ids: Tensor
    labels: Tensor


def encode(
    turns: list[Turn], tokenizer: PreTrainedTokenizerFast, image_tokens: int
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its labels; `image_tokens` = 0 means no picture."""
    ids, labels = [tokenizer.bos_token_id], [IGNORE]
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    for i, turn in enumerate(turns):
        text = prompt_text(turn.question, with_image=bool(image_tokens) and i == 0)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        if image in prompt:
            where = prompt.index(image)
            prompt[where : where + 1] = [image] * image_tokens
        answer = tokenizer(" " + turn.answer, add_special_tokens=False)["input_ids"]
        answer.append(tokenizer.eos_token_id)
        ids += prompt + answer
        labels += [IGNORE] * len(prompt) + answer
    return ids, labels


def pixels(scene: Scene) -> Tensor:
    """The picture as [3,160,160] uint8."""
    return torch.from_numpy(np.array(draw_scene(scene))).permute(2, 0, 1).contiguous()


def normalise(pictures: Tensor) -> Tensor:
    """uint8 -> what the processor makes of a picture: fp32 in [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1.0)


def patch_labels(scene: Scene) -> Tensor:
    """[10,10,5] i64: what each patch should know of its place, or `IGNORE` between places.

    Columns: thing + 2 (0 nothing, 1 sign), tile colour + 1, word + 1, look (0 nothing, 1 large,
    2 small, 3 to 5 a group of two to four), background.
    """
    out = torch.zeros(GRID, GRID, 5, dtype=torch.int64)
    backgrounds = ("white", "beige", "light blue")
    out[..., 4] = backgrounds.index(scene.background)
    for part in (*scene.items, scene.sign):
        if part is None:
            continue
        row, column = divmod(part.place, len(PLACES) // 3)
        cell = out[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        if isinstance(part, Sign):
            cell[..., 0] = 1
            cell[..., 2] = 1 + WORDS.index(part.word)
        else:
            cell[..., 0] = 2 + part.thing.index
            cell[..., 1] = 1 + tuple(TILE_COLOURS).index(part.colour)
            cell[..., 3] = part.count + 1 if part.count > 1 else 1 + (part.size == "small")
    out[9, :, :4] = IGNORE
    out[:, 9, :4] = IGNORE
    return out


LABEL_SIZES = (len(things()) + 2, len(TILE_COLOURS) + 1, len(WORDS) + 1, 6, 3)


def _scene_seed(rng: random.Random, stream: int) -> int:
    """A scene to train on; streams with a negative number see held-out scenes instead."""
    return rng.randrange(HELD_OUT_SEEDS) + (HELD_OUT_SEEDS if stream < 0 else 0)


class ScenePatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless (pictures [B,3,160,160] uint8, patch labels [B,10,10,5]) for the vision tower."""

    def __init__(self, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = random.Random(f"hivis patches {self.seed}")
        while True:
            seeds = [_scene_seed(rng, self.seed) for _ in range(self.batch)]
            # Some scenes as they will be later, most of them crowded to see more things.
            scenes = [make_scene(seed, crowded=rng.random() < 0.8) for seed in seeds]
            yield (
                torch.stack([pixels(s) for s in scenes]),
                torch.stack([patch_labels(s) for s in scenes]),
            )


class Conversations(IterableDataset[Batch]):
    """Endless training batches of `batch` conversations."""

    def __init__(self, batch: int, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.batch, self.tokenizer, self.seed = batch, tokenizer, seed
        self.image_tokens = target_config(tokenizer).image_seq_length

    def _sample(self, rng: random.Random) -> tuple[list[int], list[int], Tensor | None]:
        if rng.random() < TEXT_ONLY_SHARE:
            return *encode(text_only(rng), self.tokenizer, 0), None
        scene = make_scene(_scene_seed(rng, self.seed))
        ids, labels = encode(conversation(scene, rng), self.tokenizer, self.image_tokens)
        return ids, labels, pixels(scene)

    def __iter__(self) -> Iterator[Batch]:
        rng = random.Random(f"hivis conversations {self.seed}")
        while True:
            pool = [self._sample(rng) for _ in range(POOL * self.batch)]
            pool.sort(key=lambda sample: len(sample[0]))
            batches = [pool[i : i + self.batch] for i in range(0, len(pool), self.batch)]
            rng.shuffle(batches)
            for samples in batches:
                yield self._collate(samples)

    def _collate(self, samples: list[tuple[list[int], list[int], Tensor | None]]) -> Batch:
        longest = max(len(ids) for ids, _, _ in samples)
        ids = torch.full((len(samples), longest), self.tokenizer.pad_token_id)
        labels = torch.full((len(samples), longest), IGNORE)
        for row, (sample_ids, sample_labels, _) in enumerate(samples):
            ids[row, : len(sample_ids)] = torch.tensor(sample_ids)
            labels[row, : len(sample_labels)] = torch.tensor(sample_labels)
        pictures = [picture for _, _, picture in samples if picture is not None]
        stacked = torch.stack(pictures) if pictures else torch.zeros(0, 3, 160, 160).byte()
        return Batch(stacked, ids, labels)


def batches(dataset: IterableDataset) -> Iterator:
    """The data set read ahead by one worker process."""
    return iter(DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=8))
