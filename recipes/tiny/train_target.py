"""Train the target from scratch: python -m recipes.tiny.train_target --minutes 55 --out DIR

Three stages share the minutes; the schedule follows the clock, not a number of steps.
  vision   the tower alone, supervised: every patch predicts the content of its place
  shallow  projector and a language model of 6 layers, on conversations, loss on answers only
  full     all 16 layers: the 10 new ones start as identities, so the loss does not jump
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from rich.progress import Progress as Bar
from torch import Tensor, nn
from transformers import LlavaProcessor

from hivis.errors import HivisError, run_cli
from recipes.tiny.data import IGNORE, Batch, Conversations, ScenePatches, batches, normalize
from recipes.tiny.model import make_target, save_target, use_layers
from recipes.tiny.threads import patient_threads
from recipes.tiny.tokenizer import make_processor, train_tokenizer
from recipes.tiny.vision import PatchHeads

STAGES = ("vision", "shallow", "full")
SHARES = (0.14, 0.36, 0.5)
BATCH = {"vision": 32, "shallow": 16, "full": 16}
LEARNING_RATE = {"vision": 1.5e-3, "language": 1.2e-3}
TOWER_RATE = 0.1  # relative to the language model's rate, after the vision stage
WARM_UP = 0.03
CHECKPOINT_SECONDS = 300
LOG_SECONDS = 30


@dataclass
class TrainingProgress:
    """The progress of a run: seconds trained, and steps per stage."""

    elapsed: float = 0.0
    vision: int = 0
    shallow: int = 0
    full: int = 0

    def stage(self, seconds: float) -> str | None:
        """The stage at this point of a run of `seconds`; None when the run is over."""
        end = 0.0
        for name, share in zip(STAGES, SHARES, strict=True):
            end += share * seconds
            if self.elapsed < end:
                return name
        return None


class Trainer:
    """The model, its optimizer and the progress of its training."""

    def __init__(self, out: Path, minutes: float, device: str, resume: bool) -> None:
        self.out, self.seconds, self.device = out, 60 * minutes, device
        tokenizer = train_tokenizer()
        self.processor: LlavaProcessor = make_processor(tokenizer)
        self.tokenizer = tokenizer
        target: Any = make_target(tokenizer)  # transformers' types do not declare its parts
        self.model = target.to(device)
        self.layers = self.model.model.language_model.layers
        # On a CPU the fused attention's backward pass is slow at the tower's sizes.
        self.model.model.vision_tower.config._attn_implementation = "eager"
        self.heads = PatchHeads(self.model.config.vision_config.hidden_size).to(device)
        self.optimizer = self._optimizer()
        self.progress = TrainingProgress()
        out.mkdir(parents=True, exist_ok=True)
        if resume and (out / "training_state.pt").exists():
            state = torch.load(out / "training_state.pt", map_location=device)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = TrainingProgress(**state["progress"])
        self.held_out = {
            "vision": next(iter(ScenePatches(64, seed=-1))),
            "language": next(iter(Conversations(24, tokenizer, seed=-1))),
        }

    def _optimizer(self) -> torch.optim.AdamW:
        tower: list[nn.Parameter] = []
        language: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (tower if "vision_tower" in name else language).append(parameter)
        groups = []
        for part, parameters in (
            ("tower", tower),
            ("language", language),
            ("heads", list(self.heads.parameters())),
        ):
            for decay, wanted in ((0.05, True), (0.0, False)):
                chosen = [p for p in parameters if (p.dim() >= 2) == wanted]
                groups.append({"params": chosen, "weight_decay": decay, "part": part})
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)

    def _set_rates(self, stage: str) -> float:
        """Set and return the rate: warm-up, then a cosine, over the stage (language: over both)."""
        start, end = (0.0, SHARES[0]) if stage == "vision" else (SHARES[0], 1.0)
        done = (self.progress.elapsed / self.seconds - start) / (end - start)
        shape = min(1.0, done / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(done, 1.0))))
        rate = LEARNING_RATE["vision" if stage == "vision" else "language"] * shape
        for group in self.optimizer.param_groups:
            slow = group["part"] == "tower" and stage != "vision"
            group["lr"] = rate * TOWER_RATE if slow else rate
        return rate

    def vision_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device, dtype=torch.bfloat16):
            tower = self.model.model.vision_tower
            states = tower(normalize(images.to(self.device)), output_hidden_states=True)
            return self.heads(states.hidden_states[-1][:, 1:], labels.to(self.device))

    def language_loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy over the answers' tokens. Padding is right, so no mask is needed."""
        with torch.autocast(self.device, dtype=torch.bfloat16):
            images = normalize(batch.images.to(self.device)) if len(batch.images) else None
            ids, labels = batch.ids.to(self.device), batch.labels.to(self.device)[:, 1:]
            hidden = self.model.model(input_ids=ids, pixel_values=images, use_cache=False)
            answers = labels != IGNORE
            logits = self.model.lm_head(hidden.last_hidden_state[:, :-1][answers])
            return F.cross_entropy(logits.float(), labels[answers])

    def _loss(self, stage: str, batch: Any) -> Tensor:
        if isinstance(batch, Batch):
            return self.language_loss(batch)
        return self.vision_loss(*batch)[0]

    @torch.no_grad()
    def check(self, stage: str) -> dict[str, float]:
        """Metrics on a fixed held-out batch."""
        if stage == "vision":
            loss, right = self.vision_loss(*cast(tuple[Tensor, Tensor], self.held_out["vision"]))
            names = ("thing", "colour", "word", "look", "background")
            return {"check_loss": loss.item()} | dict(zip(names, right.tolist(), strict=True))
        return {"check_loss": self.language_loss(cast(Batch, self.held_out["language"])).item()}

    def run(self) -> None:
        """Train until the time is over, with checkpoints in between and at the end."""
        with Bar(disable=not sys.stdout.isatty()) as bar:
            bar.add_task("", total=self.seconds)
            while stage := self.progress.stage(self.seconds):
                use_layers(self.model, self.layers, all_of_them=stage == "full")
                self._run_stage(stage, bar)
                self.save()

    def _run_stage(self, stage: str, bar: Bar) -> None:
        seed = getattr(self.progress, stage)  # so a resumed run gets new images
        if stage == "vision":
            stream = batches(ScenePatches(BATCH[stage], seed))
        else:
            stream = batches(Conversations(BATCH[stage], self.tokenizer, seed))
        last = logged = saved = time.monotonic()
        losses: list[float] = []
        while self.progress.stage(self.seconds) == stage:
            rate = self._set_rates(stage)
            loss = self._loss(stage, next(stream))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            losses.append(loss.item())
            now = time.monotonic()
            self.progress.elapsed += now - last
            last = now
            setattr(self.progress, stage, getattr(self.progress, stage) + 1)
            description = f"{stage} loss {losses[-1]:.3f}"
            bar.update(bar.task_ids[0], completed=self.progress.elapsed, description=description)
            if now - logged > LOG_SECONDS:
                self._log(stage, rate, losses, now - logged)
                losses, logged = [], now
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = now
        self._log(stage, rate, losses or [math.nan], time.monotonic() - logged)

    def _log(self, stage: str, rate: float, losses: list[float], seconds: float) -> None:
        record = {
            "stage": stage,
            "minutes": self.progress.elapsed / 60,
            "step": getattr(self.progress, stage),
            "seconds_per_step": seconds / len(losses),
            "rate": rate,
            "loss": sum(losses) / len(losses),
        } | self.check(stage)
        record = {k: round(v, 5) if isinstance(v, float) else v for k, v in record.items()}
        with (self.out / "history.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(" ".join(f"{k}={v}" for k, v in record.items()), flush=True)

    def save(self) -> None:
        """Write a bf16 checkpoint that can be loaded, and the state for `--resume`."""
        use_layers(self.model, self.layers, all_of_them=True)
        save_target(self.model, self.processor, self.out)
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        torch.save(state, self.out / "training_state.tmp")
        os.replace(self.out / "training_state.tmp", self.out / "training_state.pt")
        use_layers(
            self.model, self.layers, all_of_them=self.progress.stage(self.seconds) in ("full", None)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=53.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if not args.minutes > 0 or args.threads < 1:
        raise HivisError(
            f"--minutes and --threads: wanted positive numbers, got {args.minutes}, {args.threads}"
        )
    torch.set_num_threads(args.threads)
    Trainer(args.out, args.minutes, args.device, args.resume).run()


if __name__ == "__main__":
    patient_threads()
    run_cli(main)
