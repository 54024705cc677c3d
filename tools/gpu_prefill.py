"""First-token times of prompts of several lengths, each read twice.

    python -m tools.gpu_prefill [--device cuda] [--layers 4]

Torch may choose cuDNN's attention for a prompt on Hopper, which plans anew for every length that it
has not seen: then the first reading of each length takes much longer than the second. The same is
measured without cuDNN. The model is LLaVA-1.5-7B with random weights and fewer layers.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.synthetic.configs import shape_of
from bench.synthetic.random_models import random_prompt, random_target

LENGTHS = (700, 701, 702, 1501, 1502)
WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--scale", help="a scaled model, to try the code")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    options = parser.parse_args()
    device = torch.device(options.device)
    shape = shape_of("llava-1.5-7b", options.scale, options.layers)
    target = random_target(shape, torch.bfloat16, device)
    prompts = {rows: random_prompt(shape, target, rows) for rows in options.lengths}
    most = max(options.lengths) + 64

    def read(rows: int) -> float:
        """Milliseconds until the first token is on the host."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        target.prefill(prompts[rows], "text", most).logits.argmax(-1).tolist()
        return 1e3 * (time.perf_counter() - begun)

    read(options.lengths[0])  # loads kernels
    figures = {}
    for name, backends in (("any", None), ("without cuDNN", WITHOUT_CUDNN)):
        for rows in options.lengths:
            if backends is None:
                times = [read(rows), read(rows)]
            else:
                with sdpa_kernel(backends):
                    times = [read(rows), read(rows)]
            figures[f"{name}, {rows} rows"] = times
            print(
                f"{name:<14} {rows:>5} rows: {times[0]:8.2f} ms, again {times[1]:8.2f} ms",
                flush=True,
            )
    print(json.dumps({"first_token_ms": figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
