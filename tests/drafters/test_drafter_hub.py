"""Drafters by their names on the hub, which a stand-in plays."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.core.hub import MODEL_FILES
from hivis.drafters.draft_vlm import DraftVLM
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.load import load_drafter
from hivis.errors import HivisError
from hivis.models.load import load_target
from tests.helpers.published_checkpoints import write


class Hub:
    """Stands in for the hub: knows one repository, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def __call__(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((name, revision, tuple(allow_patterns)))
        if name != "someone/drafter":
            raise huggingface_hub.errors.HFValidationError(f"no {name}\nat all")
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    return made


def test_a_hub_name_is_fetched_and_only_what_is_needed(hub: Hub) -> None:
    write(hub.folder, "HiViS-llava")
    assert isinstance(load_drafter("someone/drafter", revision="v2", hiding={}), HiViSDrafter)
    assert hub.asked == [("someone/drafter", "v2", ("config.json", "model.safetensors"))]


def test_the_pickle_is_fetched_where_there_is_nothing_else(hub: Hub) -> None:
    write(hub.folder, "EAGLE-Vicuna")
    assert load_drafter("someone/drafter").rows == "all"
    assert [asked[2][1] for asked in hub.asked] == ["model.safetensors", "pytorch_model.bin"]


def test_all_files_of_a_whole_model_are_fetched_and_its_name_is_resolved_no_more(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, processor = load_target(paths.TARGET)
    shutil.copytree(paths.DRAFT_VLM, hub.folder, dirs_exist_ok=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    drafter = load_any_drafter("someone/drafter", target, processor)
    assert isinstance(drafter, DraftVLM)
    wanted = [("config.json", "model.safetensors"), MODEL_FILES]
    assert hub.asked == [("someone/drafter", None, patterns) for patterns in wanted]


def test_a_folder_never_asks_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.folder / "someone" / "drafter"
    folder.mkdir(parents=True)
    write(folder, "HiViS-llava")
    monkeypatch.chdir(hub.folder)
    load_drafter("someone/drafter", hiding={})
    load_drafter(folder, hiding={})
    for name in ("./someone/other", "/nowhere", "~/drafter", "drafter", "a/b/c", "", ".."):
        with pytest.raises(HivisError):
            load_drafter(name)
    with pytest.raises(HivisError, match="wanted a folder or a hub name"):
        load_drafter(Path("someone/other"))
    assert not hub.asked


def test_what_the_hub_refuses_is_one_line(hub: Hub) -> None:
    with pytest.raises(HivisError) as caught:
        load_drafter("someone/else")
    assert str(caught.value).endswith("from the hub: no someone/else")


def test_without_a_network_and_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client, told that it is offline, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LocalEntryNotFoundError):
        huggingface_hub.snapshot_download("someone/drafter")
    with pytest.raises(HivisError, match="the hub cannot be reached") as caught:
        load_drafter("someone/drafter")
    assert "\n" not in str(caught.value)
