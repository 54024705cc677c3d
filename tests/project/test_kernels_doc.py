"""docs/kernels.md: its example runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

DOC = (Path(__file__).resolve().parents[2] / "docs" / "kernels.md").read_text()


def test_the_cycle_on_random_tensors(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    scope: dict = {}
    exec(compile(code, "docs/kernels.md", "exec"), scope)
    # Node 0 draws token 12, which node 1 carries: both sequences accept it and go on from there.
    assert (scope["path"][:, :2].cpu().numpy() == [[0, 1], [0, 1]]).all()
    assert (scope["path_len"] >= 2).all() and (scope["next_token"] >= 0).all()
    before = torch.tensor([40, 7])
    # The root is the last emitted token, at kv_len: noise of that position has been used already.
    assert torch.equal(scope["position"].cpu(), before + 1)
    assert torch.equal(scope["kv_len"].cpu(), (before + scope["path_len"].cpu()).int())
    assert scope["out"].isfinite().all()
    assert capsys.readouterr().out.count("[") >= 4
