"""`octavo chat` and `octavo generate`, with a model of their own and against a server."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from octavo.service import cli
from tests.conftest import TinyModel
from tests.service.conftest import World

Octavo = Callable[..., tuple[int, str, str]]
GREEDY = ["--temperature", "0", "--max-tokens", "6", "--ignore-eos"]


@pytest.fixture
def octavo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Octavo:
    """Runs the command in this process: exit code, stdout, stderr."""

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["octavo", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def tiny(tiny_model: TinyModel) -> list[str]:
    """Flags of a model that is loaded in this process."""
    return ["--model", str(tiny_model("llama")), "--kv-cache-memory", "4Mi"]


def test_generate_prints_the_text_and_the_figures_beside_it(octavo: Octavo, tiny: list[str]) -> None:
    code, out, err = octavo("generate", "Hello", *tiny, *GREEDY)
    assert code == 0
    assert out.strip()
    assert "6 tokens from" in err
    assert "KV blocks" in err


def test_generate_takes_its_prompt_from_a_pipe(octavo: Octavo, tiny: list[str]) -> None:
    _, from_argument, _ = octavo("generate", "Hello", *tiny, *GREEDY)
    _, from_pipe, _ = octavo("generate", *tiny, *GREEDY, stdin="Hello")
    assert from_pipe == from_argument


def test_generate_can_tell_all_as_json(octavo: Octavo, tiny: list[str]) -> None:
    _, text, _ = octavo("generate", "Hello", *tiny, *GREEDY)
    code, out, _ = octavo("generate", "Hello", "--json", *tiny, *GREEDY, "--logprobs", "1")
    report = json.loads(out)
    assert code == 0
    assert report["text"] == text[:-1]
    assert len(report["token_ids"]) == len(report["logprobs"]) == 6
    assert report["finish_reason"] == "length"
    assert report["usage"]["output_tokens"] == 6
    assert report["figures"]["kv_blocks"] == 1


def test_repeated_flags_make_a_list(octavo: Octavo, tiny: list[str]) -> None:
    _, whole, _ = octavo("generate", "Hello", *tiny, *GREEDY)
    _, stopped, _ = octavo("generate", "Hello", *tiny, *GREEDY, "--stop", "§§", "--stop", whole[2:4])
    assert stopped.strip("\n") == whole[: whole.index(whole[2:4])]


def test_chat_answers_one_prompt(octavo: Octavo, tiny: list[str]) -> None:
    code, out, err = octavo("chat", "Hello", *tiny, *GREEDY, "--system", "Be brief.")
    assert code == 0
    assert out.strip()
    assert "0 cached" in err


def test_chat_goes_on_from_turn_to_turn(
    octavo: Octavo, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["Hello", "", "/what", "And then?", "/new", "Hello", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    monkeypatch.setattr("octavo.service.commands.chat.is_terminal", lambda: True)
    code, _, err = octavo("chat", *tiny, *GREEDY)
    assert code == 0
    first, second, again = (line for line in err.splitlines() if "tokens from" in line)
    assert "0 cached" in first
    assert " 0 cached" not in second
    assert (
        first.partition("tokens from")[2].partition("·")[0]
        == again.partition("tokens from")[2].partition("·")[0]
    )
    assert "/new begins a new chat" in err


def test_chat_survives_a_refused_turn(
    octavo: Octavo, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines() -> Iterator[str]:
        yield "Hello"
        yield "x" * 3000  # longer than the context
        yield "And then?"

    said = lines()

    def read(_: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("octavo.service.commands.chat.is_terminal", lambda: True)
    code, _, err = octavo("chat", *tiny, *GREEDY)
    assert code == 0
    assert "continuation.prompt: must be shorter than the context of 512 tokens" in err
    assert err.count("tokens from") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "x", "--top-k", "many"], 2, "flag --top-k: input should be a valid integer"),
        (["generate", "x", "--top-k", "9999999999"], 2, "flag --top-k: Value out of range"),
        (["chat", "x", "--server", "not an address"], 2, "flag --server: must be host:port"),
        (
            ["chat", "x", "--server", "localhost:1", "--dtype", "float32"],
            2,
            "--dtype: is for a model that is",
        ),
        (["chat", "x", "--server", "localhost:1"], 1, "UNAVAILABLE"),
        (["generate", "x", "--model", "/nowhere"], 2, "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    octavo: Octavo, arguments: list[str], code: int, message: str
) -> None:
    found, _, err = octavo(*arguments)
    assert found == code
    assert err.startswith("octavo: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_broken_rule_is_told_with_its_field(octavo: Octavo, tiny: list[str]) -> None:
    code, _, err = octavo("generate", "Hello", *tiny, "--top-p", "1.5")
    assert code == 1
    assert err == "octavo: INVALID_ARGUMENT: sampling.top_p: must be in (0, 1] (got 1.5)\n"


async def test_both_talk_to_a_server(world: World) -> None:
    for command in ("generate", "chat"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "octavo.service.cli", command, "Hello", *GREEDY),
            *("--server", world.address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
        assert out.decode().strip()
        assert b"6 tokens from" in err
    await world.until_idle()


def test_help_and_version_need_neither_torch_nor_grpc() -> None:
    code = "import sys; from octavo.service.cli import app; app(sys.argv[1:], standalone_mode=False)\n"
    check = "assert not {'torch', 'grpc', 'transformers'} & set(sys.modules), 'imported'"
    for arguments in (["--help"], ["serve", "--help"], ["chat", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code + check, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_help_shows_each_setting_with_its_default(octavo: Octavo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = octavo("serve", "--help")
    assert "Most sequences computed in one step. [default: 64]" in out
    assert "--prefix-caching" in out
    assert "--no-prefix-caching" in out
