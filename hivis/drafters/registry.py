"""The drafting methods, one record each: what loads, trains, captures, shows and times them.

Everything that has to know of a method by name reads its record: ``hivis.load``, ``hivis train``
and ``capture``, the page, the benches. A new method is a drafter file, a learner file if it is
trained, and a record here. A package outside registers its own with :func:`register_drafter`, or
names its record as an entry point of the group ``hivis.drafters``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivis.core.registry import Registry
from hivis.errors import HivisError

if TYPE_CHECKING:
    from hivis.core.drafter import Drafter
    from hivis.core.target import Target
    from hivis.drafters.inspect import CheckpointInfo

#: A callable, or where it is, as ``"package.module:name"``. It is imported when it is called for,
#: so that the names of the methods can be listed without loading any model code, and a record may
#: name what lies in another layer.
Reference = str | Callable[..., Any]


@dataclass(frozen=True)
class LoadRequest:
    """What a method's ``load`` is given.

    Attributes:
        info: the checkpoint.
        target: the model that it is to draft for; ``None`` if that is not known yet.
        processor: the target's, to compare tokenizers with.
        hiding: how images of this target are hidden from a published HiViS drafter, as entries of
            :class:`hivis.drafters.config.HiViSConfig`; ``None`` if the target is not known.
    """

    info: CheckpointInfo
    target: Target | None = None
    processor: Any = None
    hiding: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DrafterMethod:
    """A drafting method.

    Attributes:
        name: by which it is chosen (``--method``), and which a drafter has as its ``method``.
        title: what tables and pages call it.
        summary: one line for help texts.
        type: what the ``config.json`` of its checkpoints says as ``type``; ``None`` if nothing.
        recognizes: ``(info: CheckpointInfo) -> bool``, whether a checkpoint is one of its drafters;
            by default those of its ``type`` are. No two methods may recognize the same checkpoint.
        load: ``(request: LoadRequest) -> Drafter``, not bound yet.
        learner: ``(request: hivis.training.learners.learner.LearnerRequest) -> Learner``; ``None``
            if it is not trained.
        columns: what it needs of a capture: the fields of
            :class:`hivis.training.data.samples.Columns`.
        options: the options of ``hivis train`` that only some methods take, and this one does, of
            ``soft``, ``noise``, ``residual_rows``, ``draft``.
        needs_draft: whether training starts from a draft model (``--draft``).
        quantizable: whether its drafter is a :class:`hivis.drafters.one_layer.OneLayerDrafter`,
            which has ``quantize(weights, draft_vocab)``.
        random: ``(layer, hiding, weights) -> Drafter``, an untrained drafter for a target whose
            :class:`hivis.models.drafter_sizes.TargetSizes` has these entries, for benches;
            ``weights(config)`` makes the tensors of a checkpoint, by the names and shapes of
            ``config.shapes()``. ``None`` if there is none.
        bundled: the folder of the one that ships for the bundled model, below
            ``hivis/bundled/weights``; ``None`` if none does.
    """

    name: str
    title: str
    summary: str
    load: Reference
    type: str | None = None
    recognizes: Reference | None = None
    learner: Reference | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    needs_draft: bool = False
    quantizable: bool = False
    random: Reference | None = None
    bundled: str | None = None

    def owns(self, info: CheckpointInfo) -> bool:
        """Whether a checkpoint is one of its drafters."""
        if self.recognizes is None:
            return self.type is not None and info.declared == self.type
        return bool(call(self.recognizes, info))


def call(reference: Reference, *arguments: Any) -> Any:
    """Call what ``reference`` names."""
    if not isinstance(reference, str):
        return reference(*arguments)
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)(*arguments)


_LAYER_OPTIONS = frozenset({"soft", "noise"})
METHODS: Registry[DrafterMethod] = Registry("method", "hivis.drafters")


def register_drafter(method: DrafterMethod) -> None:
    """Make a method known; HivisError if there is another one of its name."""
    METHODS.register(method)


def methods() -> tuple[DrafterMethod, ...]:
    """All methods: our own, then those of packages."""
    return METHODS.records()


def method_of(name: str) -> DrafterMethod:
    """The method of this name; HivisError lists those that there are."""
    return METHODS.get(name)


def recognize(info: CheckpointInfo) -> DrafterMethod:
    """The method whose drafter a checkpoint is.

    Raises:
        HivisError: it is none of a known method, or its weights cannot be read.
    """
    for method in methods():
        if method.owns(info):
            return method
    if "type" in info.config:
        types = dict.fromkeys(repr(each.type) for each in methods() if each.type is not None)
        known, got = " or ".join(types), info.config["type"]
        raise HivisError(f"{info.config_file}: type: wanted {known}, got {got!r}")
    raise HivisError(f"{info.weights_file}: {_unknown(info)}")


def title_of(drafter: Drafter) -> str:
    """What tables and pages call a drafter: its method's title, else its class's name."""
    name = getattr(drafter, "method", None)
    return next((each.title for each in methods() if each.name == name), type(drafter).__name__)


def quantizable_titles() -> str:
    """Which drafters can be quantized or have a draft vocabulary, for error messages."""
    *others, last = (method.title for method in methods() if method.quantizable)
    return f"{', '.join(others)} or {last}"


def bundled_folder(method: DrafterMethod, weights: Path) -> Path | None:
    """The folder of the drafter that ships for the bundled model, if there is one."""
    return None if method.bundled is None else weights / method.bundled


def _unknown(info: CheckpointInfo) -> str:
    """Why a published checkpoint is none that we know, by the names of its tensors."""
    names = sorted(info.tensor_names)
    eagle_3 = [name for name in names if name.startswith(("midlayer.", "d2t", "t2d"))]
    wanted = "wanted a HiViS, ViSpec or EAGLE-2 drafter, got "
    if eagle_3:
        return f"{wanted}EAGLE-3 ({eagle_3[0]})"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return wanted + (", ".join(names[:3]) + more if names else "no tensor")


for _method in (
    DrafterMethod(
        name="hivis",
        title="HiViS",
        summary="one layer that never sees a visual token (arXiv 2509.23928)",
        type="hivis",
        recognizes="hivis.drafters.load:is_hivis",
        load="hivis.drafters.load:load_hivis",
        learner="hivis.training.learners.one_layer:make_hivis",
        columns={"hidden": "text"},
        options=_LAYER_OPTIONS | {"residual_rows"},
        quantizable=True,
        random="hivis.drafters.hivis:random_hivis",
        bundled="hivis",
    ),
    DrafterMethod(
        name="vispec",
        title="ViSpec",
        summary="one layer, and an adaptor that compresses the image (arXiv 2509.15235)",
        type="vispec",
        recognizes="hivis.drafters.load:is_vispec",
        load="hivis.drafters.load:load_vispec",
        learner="hivis.training.learners.vispec:make_vispec",
        columns={"hidden": "edges", "images": True},
        options=_LAYER_OPTIONS,
        quantizable=True,
        random="hivis.drafters.vispec:random_vispec",
        bundled="vispec",
    ),
    DrafterMethod(
        name="eagle",
        title="EAGLE-2",
        summary="one layer over all rows, visual ones included (arXiv 2406.16858)",
        type="hivis",
        recognizes="hivis.drafters.load:is_eagle",
        load="hivis.drafters.load:load_hivis",
        learner="hivis.training.learners.one_layer:make_eagle",
        columns={"hidden": "all", "images": True},
        options=_LAYER_OPTIONS | {"residual_rows"},
        quantizable=True,
        random="hivis.drafters.hivis:random_eagle",
        bundled="eagle",
    ),
    DrafterMethod(
        name="draft-vlm",
        title="Spec-LLaVA",
        summary="a small VLM or language model of the same tokenizer (arXiv 2509.11961)",
        recognizes="hivis.drafters.load:is_whole_model",
        load="hivis.api.load_drafter:load_whole_model",
        learner="hivis.training.learners.distill:make_draft_vlm",
        columns={"hidden": "text", "seen": True},
        options=frozenset({"draft"}),
        needs_draft=True,
        bundled="draft_vlm",
    ),
):
    register_drafter(_method)
