"""Settings: one definition, three sources, and errors that say where a bad value came from."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from octavo.engine import ConfigError, EngineConfig
from octavo.service import cli, plain_arguments, plain_values
from octavo.service.commands import serve
from octavo.service.config import ENGINE_SETTINGS, SERVER_SETTINGS, ServerConfig, load_config
from octavo.service.gateway.config import GATEWAY_SETTINGS
from octavo.service.settings import Setting, _adapter


def test_without_any_source_the_demo_model_is_served_with_defaults() -> None:
    engine, server = load_config({}, {})
    assert engine == EngineConfig(model="smollm2")
    assert server == ServerConfig()


def test_every_field_of_both_configurations_is_a_setting() -> None:
    fields = [field.name for owner in (EngineConfig, ServerConfig) for field in dataclasses.fields(owner)]
    assert [setting.name for setting in (*ENGINE_SETTINGS, *SERVER_SETTINGS)] == fields
    assert len(set(fields)) == len(fields)


def test_a_flag_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text("max_num_seqs: 1\nmax_waiting: 1\nport: 1\n")
    environment = {"OCTAVO_MAX_NUM_SEQS": "2", "OCTAVO_MAX_WAITING": "2"}
    engine, server = load_config({"max_num_seqs": "3"}, environment, file)
    assert (engine.max_num_seqs, engine.max_waiting, server.port) == (3, 2, 1)


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "octavo.yaml").write_text("host: 0.0.0.0")
    _, server = load_config({}, {"OCTAVO_CONFIG": str(tmp_path / "octavo.yaml")})
    assert server.address == "0.0.0.0:50051"


def test_texts_become_what_the_field_is() -> None:
    environment = {
        "OCTAVO_PREFIX_CACHING": "no",
        "OCTAVO_MAX_MODEL_LEN": "2048",
        "OCTAVO_HOLD_TIMEOUT": "1.5",
        "OCTAVO_KV_CACHE_MEMORY": "1073741824",
    }
    engine, _ = load_config({}, environment)
    assert engine.prefix_caching is False
    assert (engine.max_model_len, engine.hold_timeout) == (2048, 1.5)
    assert engine.kv_cache_memory == "1073741824"


def test_a_number_in_the_file_may_stand_for_a_size(tmp_path: Path) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text("kv_cache_memory: 1073741824")
    assert load_config({}, {}, file)[0].kv_cache_memory == "1073741824"


@pytest.mark.parametrize(
    ("content", "engine"),
    [
        ("weight_cache: off", EngineConfig(model="smollm2", weight_cache="off")),
        ("weight_cache: /var/cache", EngineConfig(model="smollm2", weight_cache="/var/cache")),
        ("weight_cache:", EngineConfig(model="smollm2")),
        ("speculation: off\nprefix_caching: off", EngineConfig(model="smollm2", prefix_caching=False)),
        ("prefix_caching: no", EngineConfig(model="smollm2", prefix_caching=False)),
        ("prefix_caching: False", EngineConfig(model="smollm2", prefix_caching=False)),
        (
            "quantization: none\nrunner: native",
            EngineConfig(quantization="none", runner="native", model="smollm2"),
        ),
    ],
)
def test_words_in_the_file_are_not_taken_for_truths(
    tmp_path: Path, content: str, engine: EngineConfig
) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text(content)
    assert load_config({}, {}, file)[0] == engine


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_config({}, {"OCTAVO_PORT": ""})[1].port == 50051


def test_what_kubernetes_sets_for_a_service_named_octavo_is_passed_over() -> None:
    links = {
        "OCTAVO_SERVICE_HOST": "10.0.0.7",
        "OCTAVO_SERVICE_PORT": "50051",
        "OCTAVO_SERVICE_PORT_GRPC": "50051",
        "OCTAVO_PORT": "tcp://10.0.0.7:50051",
        "OCTAVO_PORT_50051_TCP": "tcp://10.0.0.7:50051",
        "OCTAVO_PORT_50051_TCP_ADDR": "10.0.0.7",
        "OCTAVO_GATEWAY_SERVICE_HOST": "10.0.0.8",
    }
    assert load_config({}, links) == load_config({}, {})


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"max_num_seqs": "many"}, {}, r"flag --max-num-seqs: .*valid integer.* \(got 'many'\)"),
        ({"dtype": "int8"}, {}, r"flag --dtype: .*'auto', 'float32'.* \(got 'int8'\)"),
        (
            {"quantization": "int3"},
            {},
            r"flag --quantization: .*'auto', 'none', 'int8', 'int4' or 'fp8' \(got 'int3'\)",
        ),
        ({"kv_cache_dtype": "int4"}, {}, r"flag --kv-cache-dtype: .*'auto' or 'int8' \(got 'int4'\)"),
        ({}, {"OCTAVO_RUNNER": "Native"}, r"OCTAVO_RUNNER: .*'auto', 'native' or 'torch' \(got 'Native'\)"),
        ({}, {"OCTAVO_PORT": "70000"}, r"variable OCTAVO_PORT: .*65535 \(got '70000'\)"),
        ({}, {"OCTAVO_GRACE_PERIOD": "nan"}, r"variable OCTAVO_GRACE_PERIOD: .*finite.* \(got 'nan'\)"),
        ({}, {"OCTAVO_PREFIX_CACHE": "1"}, r"OCTAVO_PREFIX_CACHE: .*did you mean OCTAVO_PREFIX_CACHING\?"),
    ],
)
def test_errors_name_source_value_and_rule(
    flags: dict[str, object], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(flags, environment)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot: 1", r"key 'prot' in .*octavo.yaml: is no setting; did you mean port\?"),
        ("runner: [native]", r"key 'runner' in .*: .*'auto', 'native' or 'torch' \(got \['native'\]\)"),
        ("quantization: 8", r"key 'quantization' in .*octavo.yaml: .*'int4' or 'fp8' \(got 8\)"),
        ("weight_cache: false", r"key 'weight_cache' in .*octavo.yaml: .*valid string \(got False\)"),
        ("port: [1]", r"key 'port' in .*octavo.yaml: .*valid integer.* \(got \[1\]\)"),
        ("- port", r"must be a mapping of settings"),
        ("port: 'x", r"is not valid YAML"),
    ],
)
def test_errors_in_a_file_name_the_key(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config({}, {}, file)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "octavo.yaml").touch()
    assert load_config({}, {}, tmp_path / "octavo.yaml") == load_config({}, {})


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config({}, {}, tmp_path / "octavo.yaml")


@pytest.mark.parametrize("setting", [*ENGINE_SETTINGS, *SERVER_SETTINGS], ids=lambda setting: setting.name)
@pytest.mark.parametrize(
    "text",
    [
        *("0", "1", "5", "-1", "007", "1023", "65536", "2147483648", "9" * 40, "1_0", " 1"),
        *("1.5", "1e3", "nan", "inf", ".5", "5.", "true", "False", "false", "yes", "off", ""),
        *("auto", "bfloat16", "Bfloat16", "json", "ngram", "debug", "a text"),
    ],
)
def test_what_is_read_without_pydantic_is_what_pydantic_reads(setting: Setting, text: str) -> None:
    plain = plain_values.read(setting.type, text)
    if plain is not plain_values.UNSURE:
        with_pydantic = _adapter(setting.type).validate_python(text)
        assert (plain, type(plain)) == (with_pydantic, type(with_pydantic))


@pytest.mark.parametrize(
    "arguments",
    [
        ["smollm2", "--port", "8000", "--http", "--dtype=bfloat16"],
        ["--port=1", "--port=2", "--no-http", "--http", "--no-prefix-caching", "a/model"],
        ["--config", "octavo.yaml", "--grace-period=1.5", "--log-format=json"],
        ["--kv-cache-memory=", "x"],
        [],
    ],
)
def test_plain_arguments_are_read_as_the_whole_command_line_reads_them(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(serve, "serve_model", lambda *call: calls.append(call))
    monkeypatch.setattr("sys.argv", ["octavo", "serve", *arguments])
    for _ in range(2):
        with contextlib.suppress(SystemExit):
            cli.main()
        monkeypatch.setattr(cli, "_serve", lambda _: False)
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--prot=1"], ["--port"], ["--port", "--http"], ["--http=1"], ["a", "b"], ["--"], ["-h"]],
)
def test_other_arguments_are_left_to_the_whole_command_line(arguments: list[str]) -> None:
    assert plain_arguments.read(arguments, (*ENGINE_SETTINGS, *SERVER_SETTINGS)) is None


def test_the_documentation_has_every_setting_with_its_help() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for setting in (*ENGINE_SETTINGS, *SERVER_SETTINGS, *GATEWAY_SETTINGS):
        assert f"| `{setting.name}` |" in documentation
        assert f"| {setting.help} |" in documentation
