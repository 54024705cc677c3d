"""Train a HiViS drafter on captured answers.

    python -m hivis.training.train_drafter --target DIR --data DIR --out DIR --minutes 20

Writes the drafter (``config.json``, ``model.safetensors``), the one after stage 1 in ``stage1/``,
and ``metrics.json`` with the held-out numbers of both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hivis.drafters.base import PromptRows
from hivis.drafters.checkpoint import HiViSConfig
from hivis.drafters.hivis import HiViSDrafter
from hivis.errors import HivisError, run_cli
from hivis.policy import TreePolicy
from hivis.training.accepted import mean_accepted_length
from hivis.training.data import Sample, load_capture, split
from hivis.training.losses import LossWeights
from hivis.training.model import HiViSModel
from hivis.training.stages import StageSettings, Target, measure, run_stage

FEEDBACK_STEPS = 3
STAGE_1_SHARE = 0.4
#: Trees that held-out answers are replayed with: a chain of five, and a small tree.
MEASURED = (TreePolicy(6, 5, 1), TreePolicy(16, 5, 4))


@dataclass(frozen=True)
class Recipe:
    """What the command line chooses.

    Attributes:
        soft: weight of the soft cross entropy. The papers use 0.1 for 7B models.
        noise: see :class:`StageSettings`; stage 1 only.
        bf16: autocast; halves the time of an update on a CPU that has bf16 arithmetic.
    """

    minutes: float = 20.0
    lr: float = 1e-3
    batch: int = 16
    soft: float = 0.1
    noise: float = 0.1
    held_out: int = 64
    bf16: bool = True
    seed: int = 0
    max_updates: int = 1 << 30


def drafter_config(target: Path, rows: PromptRows) -> HiViSConfig:
    """A drafter of the target's own sizes, from the target's ``config.json``.

    Raises:
        HivisError: the file is missing or says nothing of a text model.
    """
    path = target / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HivisError(f"{path}: wanted the target's config, got {error}") from None
    text = raw.get("text_config", raw)
    try:
        heads = text["num_attention_heads"]
        rope = text.get("rope_parameters") or {}
        return HiViSConfig(
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            vocab_size=text["vocab_size"],
            rope_theta=rope.get("rope_theta") or text.get("rope_theta") or 10000.0,
            rms_norm_eps=text.get("rms_norm_eps", 1e-5),
            residual_rows=FEEDBACK_STEPS,
            rows=rows,
        )
    except KeyError as error:
        raise HivisError(f"{path}: wanted {error.args[0]} of the text model, got none") from None


def read_tables(target: Path, device: str) -> Target:
    """The target's embedding and head, straight from its safetensors (tied or not, sharded or not).

    Raises:
        HivisError: no readable safetensors, or no embedding in them.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(target.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    for end in ("embed_tokens.weight", "lm_head.weight"):
                        if name.endswith(end):
                            found[end] = file.get_tensor(name).to(device, torch.float32)
        except (SafetensorError, OSError) as error:
            raise HivisError(f"{path}: wanted a safetensors file, got {error}") from None
    embedding = found.get("embed_tokens.weight")
    if embedding is None:
        raise HivisError(f"target {target}: wanted embed_tokens.weight in *.safetensors, got none")
    return Target(embedding, found.get("lm_head.weight", embedding))


def train(
    target: Target,
    config: HiViSConfig,
    samples: Sequence[Sample],
    out: Path,
    recipe: Recipe,
) -> dict[str, Any]:
    """Both stages; writes checkpoints and metrics, and returns the metrics.

    Raises:
        HivisError: the samples do not fit the target.
    """
    if samples[0].hidden.shape[1] != config.hidden_size:
        raise HivisError(
            f"captured data: wanted hidden size {config.hidden_size}, "
            f"got {samples[0].hidden.shape[1]}"
        )
    training, held_out = split(samples, recipe.held_out, recipe.seed)
    torch.manual_seed(recipe.seed)
    model = HiViSModel(config).to(target.head.device)
    metrics: dict[str, Any] = {
        "recipe": asdict(recipe), "samples": len(training), "held_out": len(held_out),
        "parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__,
    }  # fmt: skip
    stage_1 = StageSettings(
        steps=1, weights=LossWeights(soft=recipe.soft, top=0.0), lr=recipe.lr,
        minutes=recipe.minutes * STAGE_1_SHARE, batch=recipe.batch, noise=recipe.noise,
        max_updates=recipe.max_updates, bf16=recipe.bf16, seed=recipe.seed,
    )  # fmt: skip
    stage_2 = StageSettings(
        steps=FEEDBACK_STEPS, weights=LossWeights(soft=recipe.soft), lr=recipe.lr,
        minutes=recipe.minutes * (1 - STAGE_1_SHARE), batch=recipe.batch,
        max_updates=recipe.max_updates, bf16=recipe.bf16, seed=recipe.seed + 1000,
    )  # fmt: skip
    for name, stage, folder in (("stage 1", stage_1, out / "stage1"), ("stage 2", stage_2, out)):
        start = time.monotonic()
        updates = _run_with_bar(name, model, target, training, stage)
        if stage is stage_1:
            model.share_first_residual()
        drafter = HiViSDrafter(config, dict(model.state_dict()))
        drafter.save(folder)
        drafter.bind(target.embedding, target.head)
        metrics[name] = {
            "updates": updates,
            "minutes": (time.monotonic() - start) / 60,
            "held_out_steps": measure(model, target, held_out, FEEDBACK_STEPS),
            "accepted_length": {
                f"{policy.nodes}/{policy.depth}/{policy.top_k}": mean_accepted_length(
                    drafter, held_out, policy
                )
                for policy in MEASURED
            },
        }
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _run_with_bar(
    name: str, model: HiViSModel, target: Target, samples: Sequence[Sample], stage: StageSettings
) -> int:
    columns = (
        TextColumn(name), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task("", total=1.0)

        def report(update: int, done: float, steps: list[dict[str, float]]) -> None:
            if update % 10:
                return
            first = " ".join(f"{step['first']:.2f}" for step in steps)
            hit = " ".join(f"{step['hit']:.2f}" for step in steps)
            losses = f"feature {steps[0]['feature']:.3f} ce {steps[0]['soft']:.2f}"
            text = f"{update} updates | {losses} | top-1 {first} | top-5 {hit}"
            progress.update(task, completed=done, description=text)

        updates = run_stage(model, target, samples, stage, report)
        progress.update(task, completed=1.0)
    return updates


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hivis.training.train_drafter")
    parser.add_argument("--target", required=True, type=Path, help="folder of the target")
    parser.add_argument("--data", required=True, type=Path, help="folder of captured shards")
    parser.add_argument("--out", required=True, type=Path, help="folder for the drafter")
    parser.add_argument("--rows", choices=("text", "all"), default="text")
    default = Recipe()
    parser.add_argument("--minutes", type=float, default=default.minutes)
    parser.add_argument("--lr", type=float, default=default.lr)
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--soft", type=float, default=default.soft, help="weight of soft CE")
    parser.add_argument("--noise", type=float, default=default.noise)
    parser.add_argument("--held-out", type=int, default=default.held_out)
    parser.add_argument("--fp32", action="store_true", help="no autocast to bfloat16")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    recipe = Recipe(
        options.minutes, options.lr, options.batch, options.soft, options.noise, options.held_out,
        not options.fp32, options.seed,
    )  # fmt: skip
    config = drafter_config(options.target, options.rows)
    target = read_tables(options.target, options.device)
    samples = load_capture(options.data, options.rows)
    metrics = train(target, config, samples, options.out, recipe)
    for stage in ("stage 1", "stage 2"):
        for tree, length in metrics[stage]["accepted_length"].items():
            print(f"{stage}: accepted length {length:.2f} (tree {tree}, greedy, held out)")


if __name__ == "__main__":
    run_cli(main)
