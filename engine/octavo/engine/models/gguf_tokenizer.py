"""A tokenizer out of GGUF metadata, which holds the vocabulary but only the names of the algorithms.

The split patterns are those of the models' own tokenizer.json files, which llama.cpp knows by the name in
`tokenizer.ggml.pre` (llm_tokenizer_bpe in llama-vocab.cpp). A wrong pattern gives wrong tokens without any
error, so an unknown name is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.engine.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of `tokenizer.ggml.token_type`."""

NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

DIGITS = "digits"
"""Stands for the Digits pre-tokenizer, which splits a few characters that no pattern class has."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)

SPLITS: dict[str, tuple[str, ...]] = {
    "default": (GPT2,),
    "gpt-2": (GPT2,),
    "olmo": (GPT2,),
    "smollm": (DIGITS, GPT2),
    "starcoder": (DIGITS, GPT2),
    "llama-bpe": (LLAMA3,),
    "llama3": (LLAMA3,),
    "llama-v3": (LLAMA3,),
    "qwen2": (QWEN2,),
    "deepseek-r1-qwen": (QWEN2,),
    "deepseek-v3": DEEPSEEK3,
    "tekken": (TEKKEN,),
}
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
"""These take a word that is in the vocabulary whole, and begin texts with the beginning-of-sequence token."""


def named_tokens(metadata: Mapping[str, Any], source: str) -> dict[str, str]:
    """The texts of the named special tokens, for a tokenizer that `build_tokenizer` can build.

    Raises ModelError for a tokenizer or pre-tokenizer that is not supported.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelError(f"{source}: no tokenizer in this file: tokenizer.ggml.tokens is missing")
    match metadata.get("tokenizer.ggml.model"):
        case "gpt2":
            name = metadata.get("tokenizer.ggml.pre", "default")
            if name not in SPLITS:
                raise ModelError(
                    f"{source}: tokenizer.ggml.pre is {name!r}, which is not supported; "
                    f"supported are {', '.join(SPLITS)}"
                )
        case "llama":
            pass
        case other:
            raise ModelError(
                f"{source}: tokenizer.ggml.model is {other!r}, which is not supported; "
                "supported are gpt2, llama"
            )
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in NAMED.items()}
    return {name: tokens[token] for name, token in ids.items() if token is not None}


def build_tokenizer(metadata: Mapping[str, Any], named: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The tokenizer; takes a millisecond for each thousand tokens. named: as `named_tokens` gives them."""
    from tokenizers import AddedToken

    tokens = list(metadata["tokenizer.ggml.tokens"])
    kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if metadata["tokenizer.ggml.model"] == "gpt2":
        backend, begins = _byte_level(metadata, tokens)
    else:
        backend, begins = _sentence_piece(metadata, tokens, kinds), True
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    special = [*control, *(token for token in named.values() if token not in control)]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    user_defined = [token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in user_defined])
    bos = named.get("bos_token") if metadata.get("tokenizer.ggml.add_bos_token", begins) else None
    eos = named.get("eos_token") if metadata.get("tokenizer.ggml.add_eos_token", False) else None
    surround(backend, bos, eos)
    return backend


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> tuple[tokenizers.Tokenizer, bool]:
    """Byte-pair encoding over bytes written as characters, and whether it begins with a token by default."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    name = metadata.get("tokenizer.ggml.pre", "default")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    whole_words = name in WHOLE_WORDS
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole_words))
    splits = [
        pre_tokenizers.Digits(individual_digits=True)
        if pattern == DIGITS
        else pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        for pattern in SPLITS[name]
    ]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend, whole_words


def _sentence_piece(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> tokenizers.Tokenizer:
    """SentencePiece's byte-pair encoding: pairs merge by score, characters it does not know become bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    merges = _merges_by_score(tokens, metadata["tokenizer.ggml.scores"], kinds)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="first" if prefix_space else "never", split=False
    )
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        steps.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges_by_score(tokens: list[str], scores: list[float], kinds: list[int]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, best first, as SentencePiece merges the best-scored pair."""
    usable = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (NORMAL, USER_DEFINED)
    }
    found = []
    for token, index in usable.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in usable and right in usable:
                rank = (-scores[index], -len(left), -len(right), usable[left], usable[right])
                found.append((rank, left, right))
    found.sort()
    return [(left, right) for _, left, right in found]


def surround(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Lets `encode` put `bos` before and `eos` after every text; None for neither."""
    from tokenizers import processors

    present = [token for token in (bos, eos) if token is not None]
    template = " ".join([f"{bos}:0"] * (bos is not None) + ["$A:0"] + [f"{eos}:0"] * (eos is not None))
    backend.post_processor = processors.TemplateProcessing(
        single=template,
        pair=f"{template} $B:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in present],
    )
