"""`octavo chat` and `octavo generate`, with a model of their own and against a server."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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


def test_generate_on_two_ranks_is_what_it_is_on_one(
    octavo: Octavo, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_torch = [*tiny, *GREEDY, "--runner", "torch", "--dtype", "float32", "--json"]
    _, one, _ = octavo("generate", "Hello", *by_torch)
    monkeypatch.setenv("OCTAVO_TENSOR_PARALLEL_SIZE", "2")
    code, two, _ = octavo("generate", "Hello", *by_torch)
    assert code == 0
    assert json.loads(two)["token_ids"] == json.loads(one)["token_ids"]


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_ranks_that_do_not_divide_the_heads_are_refused(
    octavo: Octavo, tiny: list[str], command: str
) -> None:
    code, _, err = octavo(command, "Hello", *tiny, "--tensor-parallel-size", "3")
    assert code == 2
    assert re.search(r"octavo: tensor_parallel_size: must divide the 4 query heads of .* \(got 3\)", err)


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


def test_several_outputs_stand_under_headings(octavo: Octavo, tiny: list[str]) -> None:
    _, alone, _ = octavo("generate", "Hello", *tiny, *GREEDY)
    code, out, err = octavo("generate", "Hello", *tiny, *GREEDY, "--n", "2")
    assert code == 0
    assert out == f"── 1 of 2 · length\n{alone}── 2 of 2 · length\n{alone}"
    assert "12 tokens from" in err


def test_beams_stand_under_their_scores(octavo: Octavo, tiny: list[str]) -> None:
    code, out, _ = octavo("generate", "Hello", *tiny, *GREEDY, "--beam-width", "3", "--n", "2")
    scores = [float(score) for score in re.findall(r"^── \d of 2 · length · score (-\d+\.\d{4})$", out, re.M)]
    assert code == 0
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


def test_several_outputs_are_a_list_in_json(octavo: Octavo, tiny: list[str]) -> None:
    code, out, _ = octavo("generate", "Hello", "--json", *tiny, *GREEDY, "--n", "2")
    report = json.loads(out)
    assert code == 0
    assert [output["index"] for output in report["outputs"]] == [0, 1]
    assert all(len(output["token_ids"]) == 6 for output in report["outputs"])
    assert report["figures"]["time_to_first_token"] > 0


def test_a_bias_is_a_flag_for_each_token(octavo: Octavo, tiny: list[str]) -> None:
    report = ("generate", "Hello", "--json", *tiny, *GREEDY)
    _, out, _ = octavo(*report)
    first, *_ = json.loads(out)["token_ids"]
    _, out, _ = octavo(*report, "--logit-bias", f"{first}=-100", "--logit-bias", "7=100")
    assert set(json.loads(out)["token_ids"]) == {7}


def test_a_schema_may_be_in_a_file(octavo: Octavo, tiny: list[str], tmp_path: Path) -> None:
    schema = json.dumps({"enum": ["owl", "fox"]})
    (tmp_path / "schema.json").write_text(schema)
    for given in (schema, f"@{tmp_path}/schema.json"):
        code, out, _ = octavo("generate", "Hello", *tiny, "--json-schema", given)
        assert code == 0
        assert json.loads(out) in ("owl", "fox")


def test_thoughts_go_beside_the_answer(octavo: Octavo, thinking_model: Path) -> None:
    flags = ["--model", str(thinking_model), "--kv-cache-memory", "4Mi", *GREEDY, "--thinking-budget", "2"]
    for command in ("generate", "chat"):
        code, out, err = octavo(command, "Hello <think>", "--max-tokens", "9", *flags)
        assert code == 0
        assert "think>" not in out + err
    _, out, _ = octavo("generate", "Hello <think>", "--json", *flags, "--max-tokens", "9")
    report = json.loads(out)
    assert report["reasoning"]
    assert report["text"]


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
        (["generate", "x", "--logit-bias", "7"], 2, "flag --logit-bias: must be KEY=VALUE (got '7')"),
        (["generate", "x", "--logit-bias", "a=1"], 2, "flag --logit-bias: input should be a valid integer"),
        (
            ["generate", "x", "--early-stopping", "maybe"],
            2,
            "flag --early-stopping: input should be 'yes', 'no'",
        ),
        (
            ["generate", "x", "--regex", "a", "--json-object"],
            2,
            "flag --regex: must not be set with json_object",
        ),
        (["generate", "x", "--grammar", "@/nowhere"], 2, "flag --grammar: cannot read /nowhere"),
        (
            ["chat", "x", "--n", "2"],
            2,
            "flag --n: must not be set in a chat, which has one answer a turn (got 2)",
        ),
        (["chat", "x", "--beam-width", "2"], 2, "flag --beam-width: must not be set in a chat"),
        (["chat", "x", "--best-of", "2"], 2, "flag --best-of: must not be set in a chat"),
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
    code = (
        "import sys; from octavo.service.command_line import app; app(sys.argv[1:], standalone_mode=False)\n"
    )
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
