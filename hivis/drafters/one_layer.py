"""What HiViS, EAGLE-2 and ViSpec drafters share: one decoder layer, and how it drafts.

Row t joins the embedding of token t + 1 with the target's last hidden state at token t, and
predicts the target's hidden state at token t + 1; the target's own head turns that into logits
(EAGLE, arXiv 2401.15077, section 4). The layer has no norm in front of its attention. What goes
into it, and which rows a prompt gives, is each drafter's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis import ops
from hivis.core.drafter import PromptRows
from hivis.core.handoff import Acceptance, DrafterPrompt
from hivis.core.kv_cache import KVCache, row_multiple_of
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan
from hivis.drafters import checkpoint
from hivis.drafters.config import LayerConfig
from hivis.drafters.draft_vocab import DraftVocab, check_draft_vocab
from hivis.drafters.quantize import format_of
from hivis.drafters.quantized_linear import matrix
from hivis.drafters.rotation import Rotations
from hivis.drafters.tree_growth import Grower, NodeScores
from hivis.errors import HivisError

#: A tensor of the checkpoint by name, in fp32 on the target's device, to fuse weights from.
Weight = Callable[[str], Tensor]
#: What every level of a tree multiplies with, beside the head.
MATRICES = ("fc", "qkv", "o", "gate_up", "down")


class OneLayerDrafter(ABC):
    """A drafter of one layer for inference, as ``core/drafter.py`` describes it.

    Weights are fused when the drafter is bound: one matrix for q, k, v and one for gate and up.
    They, ``fc`` and a copy of the head of its own may be quantized (``quantized_linear.py``).
    """

    rows: PromptRows
    rows_read: int
    config: LayerConfig
    #: Weights that keep float32 whatever the target's dtype is, by the names of `_fuse_input`.
    in_float32: frozenset[str] = frozenset()
    #: The rows of its caches are a multiple of this number; by default
    #: :func:`hivis.core.kv_cache.row_multiple_of`.
    row_multiple: int | None = None

    def __init__(self, config: LayerConfig, tensors: dict[str, Tensor]) -> None:
        checkpoint.check_tensors(config, tensors, "drafter weights")
        self.tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._shared: tuple[Tensor, Tensor] | None = None
        self._own: KVCache | None = None
        self.weights = "full"
        self.draft_vocab: Tensor | None = None

    def quantize(self, weights: str, draft_vocab: Tensor | None = None) -> None:
        """Let it be bound with ``weights`` of a format of ``hivis.drafters.quantize``.

        What they were made of is not kept: once bound, it cannot be saved, or bound elsewhere.

        Args:
            draft_vocab: ``[n]`` int64, all that it shall ever draft (``draft_vocab.py``); by
                default the whole vocabulary.

        Raises:
            HivisError: no such format, no such list, or it is bound already.
        """
        format_of(weights)
        if draft_vocab is not None:
            check_draft_vocab(draft_vocab, self.config.vocab_size)
        if self._shared is not None:
            raise HivisError("drafter: wanted one that is not bound yet, got a bound one")
        self.weights, self.draft_vocab = weights, draft_vocab

    @property
    def cache(self) -> KVCache:
        """Of the sequences that it drafts; its entries hold what else it knows of them.

        ``output`` ``[B, E]`` is the layer's at the last row, and ``gap`` ``[B, 1]`` how far rows
        behind the prompt lie before their positions. The next prefill may take its memory over,
        unless another has been put in its place; and never that of one from outside.
        """
        return self._cache

    @cache.setter
    def cache(self, cache: KVCache) -> None:
        def one_bit() -> Tensor:
            return torch.ones(cache.max_batch, 1, 1, dtype=torch.int64, device=cache.kv.device)

        self._cache = cache
        if cache is not self._own:
            self._own = None
        self._by_row = cache.kv[0].permute(1, 3, 0, 2, 4)
        # A longer sequence has brought longer tables: captured graphs read the old ones.
        cache.renew(Rotations, self._rotations)
        self._one_bit = cache.get_or_make("one bit", one_bit)[: cache.batch_size]

    def bind(self, embedding: Tensor, head: Tensor) -> None:
        """Share the target's tables, both ``[V, E]``, and move to their device and dtype.

        Raises:
            HivisError: the drafter was made for a target of other sizes.
        """
        if self._shared is not None and self._shared[0] is embedding and self._shared[1] is head:
            return
        if not self.tensors:
            raise HivisError("drafter: wanted its own weights to bind it again, got quantized ones")
        c = self.config
        for name, table in (("embedding", embedding), ("head", head)):
            wanted = (c.vocab_size, c.hidden_size)
            if tuple(table.shape) != wanted:
                raise HivisError(
                    f"target's {name}: wanted {list(wanted)} (this drafter's vocabulary and "
                    f"hidden size), got {list(table.shape)}"
                )
        self._embedding, self._head = embedding.detach(), head.detach()

        def weight(name: str) -> Tensor:
            return self.tensors[name].to(embedding.device, torch.float32)

        fused = self._fuse_input(weight) | fuse_layer(weight, c.attention_bias)
        dtype = embedding.dtype
        self._m = {name: matrix(fused.pop(name), self.weights, dtype) for name in MATRICES}
        self._short, rows = None, self._head
        if self.draft_vocab is not None:
            self._short = DraftVocab(self.draft_vocab.to(rows.device), len(rows))
            rows = rows[self._short.ids]
        self._m["head"] = matrix(rows, self.weights, dtype)
        self._w = {
            name: (part if name in self.in_float32 else part.to(dtype)).contiguous()
            for name, part in fused.items()
        }
        if self.weights != "full":
            self.tensors = {}
        self._shared = (embedding, head)
        self._qkv_bias = self._w.get("qkv_bias")
        self._heads, self._kv_heads = c.num_attention_heads, c.num_key_value_heads
        self._scale = c.head_dim**-0.5
        self._rotations = Rotations(0, c, embedding.device, dtype)
        if hasattr(self, "_cache"):  # sequences still in progress end here
            self.cache = self._cache.for_sequences(0, 0)

    @property
    def embedding(self) -> Tensor:
        """``[V, E]``, the target's; only once bound."""
        return self._embedding

    @property
    def level_bytes(self) -> int:
        """What a level of a tree reads of weights, the head's included; only once bound."""
        return sum(own.nbytes for own in self._m.values())

    @abstractmethod
    def _fuse_input(self, weight: Weight) -> dict[str, Tensor]:
        """The weights in front of the layer."""

    @abstractmethod
    def _join(self, following: Tensor, hidden: Tensor, step: int) -> Tensor:
        """``[B, N, E]`` what enters the layer: the next token's embedding and the hidden state.

        ``step`` is 0 at rows of the target, and the level at rows of a draft tree.
        """

    @abstractmethod
    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        """Read the prompt; see ``core/drafter.py``."""

    @torch.inference_mode()
    def grow(
        self, token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        """Grow a tree under ``token`` ``[B]``; see ``core/drafter.py``."""
        vocab = self.config.vocab_size if self._short is None else len(self._short.ids)
        grower = Grower.over(self._cache, plan, vocab)
        kv_len, output = self._cache.kv_len, self._cache.entries["output"]
        k, frontiers = plan.shape.top_k, max(plan.shape.depth - 1, 1)
        rows = kv_len.unsqueeze(1) + self._rotations.index[: frontiers * k]
        # Rows of one level share a position, so a cycle needs one rotation per level.
        turns = self._turns_at(rows[:, :frontiers])
        heads, width = self._heads + 2 * self._kv_heads, self.config.head_dim
        tree = output.new_empty(token.shape[0], frontiers * k, heads, width)

        def step(
            level: int, tokens: Tensor, before: Tensor, words: Tensor
        ) -> tuple[Tensor, Tensor]:
            end = level * k
            own = slice(end - k, end)
            x = self._join(F.embedding(tokens, self._embedding), before, level)
            qkv = self._qkv(x, turns[:, level - 1 : level], tree[:, own])
            self._write(rows[:, own], qkv)
            # The op takes as many queries as there are tree rows, and skips those without a bit:
            # nodes of the levels above stand in as such.
            query = tree[:, :end, : self._heads]
            out = self._finish(x, query, kv_len, grower.words_behind(level))
            return self._predict(out), out

        scores = NodeScores.of(sampling, position, plan.shape)
        return grower(plan, token, self._predict(output), output, scores, step)

    @torch.inference_mode()
    def commit(self, hidden: Tensor, tree: DraftTree, acceptance: Acceptance) -> None:
        """Take over the accepted nodes' target hidden states; ``hidden`` is ``[B, N, E]``.

        All M rows of the path are written, whatever its length: what lies behind the accepted ones
        is never read, and the next tree overwrites it.
        """
        kv_len, path = self._cache.kv_len, acceptance.path
        accepted = hidden[self._cache.batch_index, path]
        # A next token of -1 marks logits that held a NaN; the sequence ends, so the last row of
        # the table, which is what -1 means here, will do.
        x = self._join(self._embedding[acceptance.emitted], accepted, 0)
        rows = kv_len.unsqueeze(1) + self._rotations.index[: path.shape[1]]
        kv_len += acceptance.path_len
        last = kv_len - 1
        # The path repeats its last node, and so its last row is that one's if it is at its place.
        qkv = self._qkv(x, self._turns_at(torch.minimum(rows, last.unsqueeze(1))))
        self._write(rows, qkv)
        query = qkv[:, -1:, : self._heads]
        self._cache.set_entry("output", self._finish(x[:, -1:], query, last, self._one_bit)[:, 0])

    def _predict(self, output: Tensor) -> Tensor:
        """``[..., V]`` logits of the layer's ``output`` ``[..., E]``, by the target's head."""
        logits = self._m["head"](output)
        return logits if self._short is None else self._short.widen(logits, self._cache)

    # The layer, in the parts that prefill, grow and commit share.

    def _read(self, x: Tensor, positions: Tensor) -> None:
        """Prefill: the prompt's R rows ``x`` ``[B, R, E]`` at positions ``[R]``.

        The layer's output is needed at the last row alone: no other row asks for attention.
        """
        batch, rows, _ = x.shape
        self.rows_read = rows
        qkv = self._qkv(x, self._rotations.at(positions.expand(batch, -1)))
        self._by_row[:, :rows] = qkv[:, :, self._heads :].unflatten(2, (2, -1))
        kv_len = self._cache.kv_len.fill_(rows)
        out = self._finish(x[:, -1:], qkv[:, -1:, : self._heads], kv_len - 1, self._one_bit)
        self._cache.set_entry("output", out[:, 0])

    def _qkv(self, x: Tensor, turn: Tensor, out: Tensor | None = None) -> Tensor:
        """``[B, N, H + 2 Hkv, D]``: queries, keys and values at their positions (:class:`Rotations`
        has ``turn``); written to ``out``, if given."""
        qkv = self._m["qkv"](x, self._qkv_bias)
        qkv = qkv.unflatten(2, (self._heads + 2 * self._kv_heads, -1))
        return self._rotations.turn(qkv, turn, out)

    def _finish(self, x: Tensor, query: Tensor, kv_len: Tensor, words: Tensor) -> Tensor:
        """Attention over the cache, then the MLP, for ``x`` ``[B, N, E]``.

        ``query`` may have rows in front of the last N, which only stand in.
        """
        keys, values = self._cache.keys[0], self._cache.values[0]
        attended = ops.tree_attention(query, keys, values, kv_len, words, self._scale)
        attended = attended[:, query.shape[1] - x.shape[1] :].flatten(2)
        x = x + self._m["o"](attended)
        normed = F.rms_norm(x, x.shape[-1:], self._w["norm"], self.config.rms_norm_eps)
        gate, up = self._m["gate_up"](normed).chunk(2, -1)
        return x + self._m["down"](F.silu(gate) * up)

    def _write(self, rows: Tensor, qkv: Tensor) -> None:
        """Store keys and values of ``qkv`` at ``rows`` ``[B, N]`` of the slab."""
        parts = qkv[:, :, self._heads :].unflatten(2, (2, -1))
        self._by_row.index_put_((self._cache.batch_index, rows), parts)

    def _turns_at(self, rows: Tensor) -> Tensor:
        """The rotations of cache rows ``[B, N]`` behind the prompt."""
        return self._rotations.at(rows + self._cache.entries["gap"])

    # Buffers of a batch of sequences.

    def _allocate(self, batch: int, max_rows: int, gap: int = 0) -> None:
        """Room for ``max_rows`` cache rows, where those behind the prompt lie ``gap`` further on.

        ``gap`` is kept as a tensor: sequences of a batch differ in it.
        """
        c, device, dtype = self.config, self._head.device, self._head.dtype
        row_multiple, old = self.row_multiple or row_multiple_of(device), self._own
        positions = max_rows + gap
        if self._rotations.positions < positions:
            self._rotations = Rotations(positions + -positions % row_multiple, c, device, dtype)
        if old is not None and batch == 1 and old.can_be_reused_for(max_rows, row_multiple):
            cache = old.reuse()
        else:
            max_rows += -max_rows % row_multiple
            cache = KVCache(1, batch, c.num_key_value_heads, max_rows, c.head_dim, dtype, device)
        cache.set_entry("gap", torch.full((batch, 1), gap, dtype=torch.int32, device=device))
        self._own = cache
        self.cache = cache


def fuse_layer(weight: Weight, attention_bias: bool) -> dict[str, Tensor]:
    """The decoder layer: one matrix for q, k and v, one for gate and up, and what stands alone."""
    layer = "layers.0."
    qkv = [layer + f"self_attn.{part}_proj" for part in "qkv"]
    fused = {
        "qkv": torch.cat([weight(part + ".weight") for part in qkv]),
        "o": weight(layer + "self_attn.o_proj.weight"),
        "norm": weight(layer + "post_attention_layernorm.weight"),
        "gate_up": torch.cat(
            [weight(layer + f"mlp.{part}_proj.weight") for part in ("gate", "up")]
        ),
        "down": weight(layer + "mlp.down_proj.weight"),
    }
    if attention_bias:
        fused["qkv_bias"] = torch.cat([weight(part + ".bias") for part in qkv])
    return fused
