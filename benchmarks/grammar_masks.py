"""What a grammar library costs: to start, to compile a JSON schema, to fill the masks of a batch of 16.

    python benchmarks/grammar_masks.py [--model smollm2]

Masks are filled along real JSON. Compares with xgrammar where that is installed, with the same tokens,
schemas and threads: `uv pip install xgrammar`, in an environment of its own.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from octavo.engine.structured import GrammarCompiler, MaskFiller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo.engine.models.source import ModelFiles

BATCH = 16
THREADS = min(4, os.cpu_count() or 1)
ADDRESS = {"street": "12 St James's Square", "city": "London", "zip": "12345"}
CUSTOMER = {
    "id": 12345,
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "active": True,
    "role": "admin",
    "addresses": [ADDRESS, ADDRESS],
    "tags": ["mathematics", "engine", "poetry"],
    "score": 0.875,
}
TEXT = {"type": "string"}


def schema(number: int) -> str:
    """A middling one; all are alike: 0.9 kB, 12 properties, a reference, a choice, a pattern, bounds."""
    customer = {
        "id": {"type": "integer", "description": "Number of the customer"},
        "name": {"type": "string", "minLength": 1, "maxLength": 60},
        "email": {"type": "string", "format": "email"},
        "active": {"type": "boolean"},
        "role": {"enum": ["admin", "user", "guest"]},
        "addresses": {"type": "array", "items": {"$ref": "#/$defs/address"}, "maxItems": 4},
        "tags": {"type": "array", "items": TEXT, "maxItems": 8},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        f"notes{number}": {"anyOf": [TEXT, {"type": "null"}]},
    }
    zip_code = {"type": "string", "pattern": "^[0-9]{5}$"}
    address = {"street": TEXT, "city": TEXT, "zip": zip_code}
    required = [name for name in customer if name in CUSTOMER]
    return json.dumps(
        {
            **closed(customer, required),
            "$defs": {"address": closed(address, list(address))},
        }
    )


def closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


class Library(Protocol):
    """What is measured. A grammar and a matcher are whatever the library calls so."""

    imports: str

    def start(self) -> None: ...
    def compile(self, text: str) -> Any: ...
    def matcher(self, grammar: Any) -> Any: ...
    def fill(self, matchers: Sequence[Any]) -> object: ...
    def accept(self, matcher: Any, token_id: int) -> None: ...


class Octavo:
    """llguidance, as the engine uses it: with the trial in another process, and masks in a thread."""

    imports = "llguidance"

    def __init__(self, files: ModelFiles) -> None:
        self._tokenizer = files.tokenizer()
        vocab_size = self._tokenizer.vocab_size
        self._compiler = GrammarCompiler(self._tokenizer, vocab_size, files.eos_token_ids)
        self._filler = MaskFiller(vocab_size)

    def start(self) -> None:
        self._compiler.compile(SamplingParams(json_object=True))
        self._compiler.compile(SamplingParams(regex="starts the trial's process"))

    def compile(self, text: str) -> Any:
        return self._compiler.compile(SamplingParams(json_schema=text))

    def matcher(self, grammar: Any) -> Any:
        return grammar.matcher()

    def fill(self, matchers: Sequence[Any]) -> object:
        return self._filler.begin(matchers)()

    def accept(self, matcher: Any, token_id: int) -> None:
        matcher.accept(token_id)
        matcher.forced()


class XGrammar:
    """xgrammar, as vLLM uses it."""

    imports = "xgrammar"

    def __init__(self, files: ModelFiles) -> None:
        self._tokenizer = files.tokenizer()
        self._eos = list(files.eos_token_ids)

    def start(self) -> None:
        import xgrammar

        size = self._tokenizer.vocab_size
        tokens = [self._tokenizer.bytes_of(token_id) for token_id in range(size)]
        info = xgrammar.TokenizerInfo(tokens, vocab_size=size, stop_token_ids=self._eos)
        self._make = xgrammar.GrammarMatcher
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=THREADS)
        self._batch = xgrammar.BatchGrammarMatcher(max_threads=THREADS)
        self._masks = xgrammar.allocate_token_bitmask(BATCH, size)
        self._compiler.compile_builtin_json_grammar()

    def compile(self, text: str) -> Any:
        return self._compiler.compile_json_schema(text)

    def matcher(self, grammar: Any) -> Any:
        return self._make(grammar)

    def fill(self, matchers: Sequence[Any]) -> object:
        return self._batch.batch_fill_next_token_bitmask(list(matchers), self._masks)

    def accept(self, matcher: Any, token_id: int) -> None:
        assert matcher.accept_token(token_id)
        matcher.find_jump_forward_string()


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2", help="whose vocabulary to use")
    files = open_model(parser.parse_args().model)
    tokenizer = files.tokenizer()
    table = Table(title=f"{tokenizer.vocab_size:,} tokens, batches of {BATCH}, {THREADS} threads")
    table.add_column("milliseconds, median (and 99th percentile)", no_wrap=True)
    libraries: list[Library] = [Octavo(files)]
    if importlib.util.find_spec("xgrammar"):
        libraries.append(XGrammar(files))
    columns = [measure(library, walks(tokenizer)) for library in libraries]
    for library in libraries:
        table.add_column(library.imports, justify="right", no_wrap=True)
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console().print(table)


def walks(tokenizer: Any) -> list[list[int]]:
    """Tokens of as many different outputs as a batch has, all of the schema."""
    values = [{**CUSTOMER, "id": 7919 * i, "name": CUSTOMER["name"] + " " + "I" * i} for i in range(BATCH)]
    return [tokenizer.encode(json.dumps(value), add_special_tokens=False) for value in values]


def measure(library: Library, walked: list[list[int]]) -> dict[str, str]:
    found = {"import": shown([import_time(library.imports) for _ in range(5)])}
    importlib.import_module(library.imports)
    found["take the vocabulary, start"] = shown([timed(library.start)[0]])
    compiled = [timed(library.compile, schema(i)) for i in range(BATCH)]
    found["compile a schema"] = shown([compiled[0][0]])
    found["compile one that is like it"] = shown([seconds for seconds, _ in compiled[1:]])
    grammars = [grammar for _, grammar in compiled]
    for name, used in (("one schema", grammars[:1] * BATCH), (f"{BATCH} schemas", grammars)):
        for state in ("once", "again"):
            fills, accepts = walk(library, [library.matcher(grammar) for grammar in used], walked)
            found[f"fill {BATCH} masks, {name}, {state}"] = shown(fills)
        found[f"accept a token, {name}"] = shown(accepts)
    return found


def walk(library: Library, matchers: list[Any], walked: list[list[int]]) -> tuple[list[float], list[float]]:
    """Seconds of every fill and every accept, as long as the shortest output lasts."""
    fills, accepts = [], []
    for step in range(min(map(len, walked))):
        fills.append(timed(library.fill, matchers)[0])
        for matcher, token_ids in zip(matchers, walked, strict=True):
            accepts.append(timed(library.accept, matcher, token_ids[step])[0])
    return fills, accepts


def timed(act: Any, *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = act(*arguments)
    return time.perf_counter() - began, result


def import_time(module: str) -> float:
    """Seconds, in a process of its own."""
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def shown(seconds: list[float]) -> str:
    median, worst = statistics.median(seconds), float(np.percentile(seconds, 99))
    return f"{median * 1e3:,.3g}" + (f" ({worst * 1e3:,.3g})" if len(seconds) > 5 else "")


if __name__ == "__main__":
    main()
