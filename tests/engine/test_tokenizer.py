"""Tokens of every kind of tokenizer, against Transformers' own and the tokenizers library's."""

from __future__ import annotations

import builtins
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
from transformers import AutoTokenizer, LlamaTokenizer

from octavo.engine.errors import ModelError
from octavo.engine.models.gguf_tokenizer import SPLITS, surround
from octavo.engine.models.source import open_model
from octavo.engine.tokenizer import Tokenizer

from .conftest import gguf_read_once

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import TinyModel

TEXTS = [
    "",
    " ",
    "Hello, world! It's  a   test; we'll see, won't WE'LL?",
    "  leading and trailing  ",
    "def f(x):\n    return {'a': [x ** 2 for _ in range(10)]}  # ünïcode\n\n\n\treturn\r\n",
    "1234567890 3.14159 1,000,000 v2.0 0xFF",
    "日本語のテキスト、中文文本，한국어 텍스트.",
    "👋🏽 family: 👨‍👩‍👧‍👦 flags: 🇩🇪🇯🇵 e\u0301 \u00a0 \u200b \ufeff",
    "Привет, мир! שלום مرحبا Ελληνικά",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|im_start|> <|im_end|><|im_end|> not<|a special> token",
    "\x00\x01\x7f control",
]
SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
SPM_PIECES = [
    "▁",
    "l",
    "o",
    "w",
    "e",
    "r",
    "lo",
    "low",
    "▁low",
    "er",
    "▁lower",
    "H",
    "i",
    "Hi",
    "▁Hi",
    ",",
    "s",
]


@pytest.fixture(scope="session")
def demo(smollm2_path: Path) -> Tokenizer:
    return open_model(str(smollm2_path)).tokenizer()


@pytest.fixture(scope="session")
def demo_oracle(smollm2_path: Path) -> Any:
    with gguf_read_once():
        return AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)


@pytest.mark.parametrize("text", TEXTS)
def test_the_demo_models_tokens_equal_transformers(demo: Tokenizer, demo_oracle: Any, text: str) -> None:
    ids = demo.encode(text)

    assert ids == demo_oracle.encode(text)
    assert demo.decode(ids, skip_special_tokens=False) == text
    assert demo.decode(ids) == demo_oracle.decode(ids, skip_special_tokens=True)


def test_spaces_before_a_digit_are_split_as_the_model_was_trained(demo: Tokenizer, demo_oracle: Any) -> None:
    """SmolLM2 splits digits off first, then words; Transformers drops the first step for GGUF files."""
    original = tokenizers.Tokenizer.from_str(demo_oracle.backend_tokenizer.to_str())
    original.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )

    assert demo.encode("a  12\n    3") == original.encode("a  12\n    3").ids
    assert demo.encode("a  12\n    3") != demo_oracle.encode("a  12\n    3")


def test_the_demo_models_special_tokens_are_known(demo: Tokenizer) -> None:
    assert (demo.vocab_size, demo.bos_token_id, demo.eos_token_id) == (49152, 1, 2)
    assert demo.special_tokens["eos_token"] == "<|im_end|>"
    assert {0, 1, 2} <= demo.special_ids
    assert demo.chat_template is not None


@pytest.mark.parametrize("text", TEXTS)
def test_a_folders_tokens_equal_transformers(tiny_model: TinyModel, text: str) -> None:
    folder = tiny_model("llama")
    ours, oracle = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)

    ids = ours.encode(text)

    assert ids == oracle.encode(text)
    assert ours.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model("llama"), tmp_path / "copy")


def edit_config(folder: Path, **values: Any) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_text_is_surrounded_as_tokenizer_json_says(folder: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    surround(backend, "<|endoftext|>", "<|im_end|>")
    backend.save(str(folder / "tokenizer.json"))
    edit_config(folder, add_bos_token=False)
    tokenizer = Tokenizer.from_folder(folder)

    assert tokenizer.encode("fox") == AutoTokenizer.from_pretrained(folder).encode("fox")
    assert tokenizer.encode("fox")[0] == tokenizer.bos_token_id
    assert tokenizer.encode("fox")[-1] == tokenizer.eos_token_id
    assert tokenizer.encode("fox", add_special_tokens=False) == tokenizer.encode("fox")[1:-1]


def test_special_tokens_may_be_written_as_objects(folder: Path) -> None:
    edit_config(folder, eos_token={"content": "<|im_end|>", "special": True})

    assert Tokenizer.from_folder(folder).eos_token_id == 2


def test_a_special_token_that_is_new_gets_an_id(folder: Path) -> None:
    edit_config(folder, eos_token="<|new|>")
    tokenizer = Tokenizer.from_folder(folder)

    assert tokenizer.encode("<|new|>") == [tokenizer.eos_token_id]
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == ""


def test_long_texts_are_neither_cut_nor_padded(folder: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(folder / "tokenizer.json"))

    assert len(Tokenizer.from_folder(folder).encode("a" * 30)) == 30


@pytest.mark.parametrize("place", ["jinja", "json", "config", "named"])
def test_a_chat_template_is_found_where_it_may_stand(folder: Path, place: str) -> None:
    (folder / "chat_template.jinja").unlink()
    if place == "jinja":
        (folder / "chat_template.jinja").write_text("hello")
    elif place == "json":
        (folder / "chat_template.json").write_text('{"chat_template": "hello"}')
    elif place == "config":
        edit_config(folder, chat_template="hello")
    else:
        named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "hello"}]
        edit_config(folder, chat_template=named)

    template = Tokenizer.from_folder(folder).chat_template

    assert template is not None
    assert template.source == "hello"


def test_a_model_may_have_no_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()

    assert Tokenizer.from_folder(folder).chat_template is None


def test_a_corrupt_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")

    with pytest.raises(ModelError, match=r"tokenizer\.json: corrupt tokenizer"):
        Tokenizer.from_folder(folder)


def older_files(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    (folder / "tokenizer.json").unlink()
    edit_config(folder, tokenizer_class="GPT2Tokenizer")


def test_older_files_are_read_through_transformers(folder: Path) -> None:
    expected = Tokenizer.from_folder(folder).encode("the quick brown fox")
    older_files(folder)

    assert Tokenizer.from_folder(folder).encode("the quick brown fox") == expected


def test_older_files_without_transformers_say_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_files(folder)
    load = builtins.__import__

    def without_transformers(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_transformers)

    with pytest.raises(ModelError, match="pip install transformers"):
        Tokenizer.from_folder(folder)


def test_a_folder_without_any_tokenizer_is_refused(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / name).unlink()

    with pytest.raises(ModelError, match="no tokenizer that can be used"):
        Tokenizer.from_folder(folder)


def byte_level_metadata(tiny: Path, pre: str) -> dict[str, Any]:
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
    }


@pytest.mark.parametrize("pre", SPLITS)
@pytest.mark.parametrize("text", TEXTS)
def test_every_pre_tokenizer_keeps_the_text(tiny_model: TinyModel, pre: str, text: str) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata(tiny_model("llama"), pre), "x.gguf")

    ids = tokenizer.encode(text, add_special_tokens=False)

    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken"])
def test_pre_tokenizers_split_as_transformers_does(tiny_model: TinyModel, pre: str) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    assert SPLITS[pre] == (GGUF_PRE_TOKENIZER_SPLITS[pre],)


@pytest.mark.parametrize(
    ("pre", "metadata", "begins"),
    [("default", {}, False), ("llama-bpe", {}, True), ("default", {"add_bos_token": True}, True)],
)
def test_texts_begin_with_a_token_where_the_model_expects_it(
    tiny_model: TinyModel, pre: str, metadata: dict[str, bool], begins: bool
) -> None:
    stated = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    tokenizer = Tokenizer.from_gguf(byte_level_metadata(tiny_model("llama"), pre) | stated, "x.gguf")

    assert (tokenizer.encode("fox")[0] == 0) == begins


def test_user_defined_tokens_stay_whole_but_are_not_special(tiny_model: TinyModel) -> None:
    metadata = byte_level_metadata(tiny_model("llama"), "default")
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "<think>"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 4]
    tokenizer = Tokenizer.from_gguf(metadata, "x.gguf")

    assert tokenizer.encode("<think>") == [tokenizer.vocab_size - 1]
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == "<think>"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.pre": "unheard-of"}, "tokenizer.ggml.pre is 'unheard-of', which is not supported"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert', which is not supported"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
    ],
)
def test_an_unknown_tokenizer_is_refused(
    tiny_model: TinyModel, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as refused:
        Tokenizer.from_gguf(byte_level_metadata(tiny_model("llama"), "default") | metadata, "x.gguf")

    assert str(refused.value).startswith("x.gguf: ")
    assert message in str(refused.value)


def sentence_piece_metadata(**more: Any) -> dict[str, Any]:
    tokens = SPM_TOKENS + SPM_PIECES
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * len(SPM_TOKENS) + [-float(index) for index in range(len(SPM_PIECES))],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(SPM_PIECES),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | more).items()}


@pytest.mark.parametrize(
    "text", ["low lower", "Hi, lowers", " low", "  Hi", "ö世👋", "<s>low</s>", "", "\n low"]
)
def test_sentence_piece_tokens_equal_transformers(text: str) -> None:
    metadata = sentence_piece_metadata()
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    from transformers.tokenization_utils_base import generate_merges

    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocabulary, dict(zip(tokens, scores, strict=True)))
    oracle = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer = Tokenizer.from_gguf(metadata, "x.gguf")

    ids = tokenizer.encode(text)

    assert ids == oracle.encode(text)
    assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_sentence_piece_without_a_space_before_the_text() -> None:
    tokenizer = Tokenizer.from_gguf(sentence_piece_metadata(add_space_prefix=False), "x.gguf")

    ids = tokenizer.encode("low", add_special_tokens=False)

    assert [tokenizer.backend.id_to_token(token_id) for token_id in ids] == ["low"]
    assert tokenizer.decode(tokenizer.encode(" low")) == " low"


def test_a_text_that_spells_a_byte_token_does_not_become_one() -> None:
    pieces = ["<", "0", "x", "A", ">", "<0", "<0x", "<0x0", "<0x0A"]
    metadata = sentence_piece_metadata()
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *pieces]
    metadata["tokenizer.ggml.scores"] = [*metadata["tokenizer.ggml.scores"], *[-50.0] * len(pieces)]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], *[1] * len(pieces)]
    tokenizer = Tokenizer.from_gguf(metadata, "x.gguf")

    assert tokenizer.decode(tokenizer.encode("<0x0A>")) == "<0x0A>"
