"""The parts of the `octavo` command, with their options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octavo.service.cli import STARTED
from octavo.service.config import CONFIG_VARIABLE, DEFAULT_MODEL, ENGINE_SETTINGS, SERVER_SETTINGS
from octavo.service.config import SERVER_VARIABLE as ADDRESS_VARIABLE
from octavo.service.gateway.config import GATEWAY_SETTINGS
from octavo.service.options import sampling_settings, takes

app = typer.Typer(
    name="octavo",
    help="Serve large language models from paged memory, and talk to them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"YAML file with settings by name ({CONFIG_VARIABLE})."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDRESS",
        envvar=ADDRESS_VARIABLE,
        help="Talk to the server at this address, such as localhost:50051, instead of loading a model here.",
    ),
]
SETTINGS_EPILOG = (
    "A setting is taken from its flag, else from the environment (--max-model-len is OCTAVO_MAX_MODEL_LEN), "
    "else from the YAML file (max_model_len), else it has the default shown."
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"octavo {version('octavo')}")
        raise typer.Exit


@app.callback()
def octavo(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog=SETTINGS_EPILOG)
@takes(engine=[setting for setting in ENGINE_SETTINGS if setting.name != "model"], server=SERVER_SETTINGS)
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"A folder, a .gguf file, or a Hugging Face id (OCTAVO_MODEL). \\[default: {DEFAULT_MODEL}]",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    *,
    engine: dict[str, object],
    server: dict[str, object],
) -> None:
    """Serve a model over gRPC until SIGTERM or Ctrl-C.

    [dim]Examples:[/dim]

    octavo serve [dim](the small model that comes with Octavo)[/dim]

    octavo serve Qwen/Qwen3-0.6B --port 8000

    octavo serve model.gguf --kv-cache-memory 2Gi --max-model-len 8192

    OCTAVO_HOST=0.0.0.0 octavo serve --config octavo.yaml
    """
    from octavo.service.commands.serve import serve_model

    flags = engine | server | ({"model": model} if model else {})
    serve_model(flags, config, STARTED)


@app.command(epilog=SETTINGS_EPILOG)
@takes(gateway=GATEWAY_SETTINGS)
def gateway(config: ConfigFile = None, *, gateway: dict[str, object]) -> None:
    """Serve many pods at one address, over gRPC and HTTP, until SIGTERM or Ctrl-C.

    Requests go where KV caches are emptiest and queues shortest. A pod that dies, drains or hangs loses none:
    another one goes on from the last token.

    [dim]Examples:[/dim]

    octavo gateway --pods localhost:50051,localhost:50052

    octavo gateway --pods small=10.0.0.7:50051 --pods large=10.0.0.8:50051

    octavo gateway --kubernetes --host 0.0.0.0
    """
    from octavo.service.commands.gateway import serve_gateway

    serve_gateway(gateway, config, STARTED)


@app.command(epilog=SETTINGS_EPILOG)
@takes(sampling=sampling_settings(), engine=ENGINE_SETTINGS)
def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="Answer this and end; without it, chat (or answer what is piped in).")
    ] = None,
    server: Address = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Instructions before the first message.")
    ] = None,
    config: ConfigFile = None,
    *,
    sampling: dict[str, object],
    engine: dict[str, object],
) -> None:
    """Chat with a model: one that is loaded here, or one that a server has.

    Each turn continues the one before in the KV cache, so only the new tokens are computed. The figures of
    each answer go to stderr.

    [dim]Examples:[/dim]

    octavo chat [dim](with the small model that comes with Octavo, right here)[/dim]

    octavo chat --server localhost:50051 --temperature 0

    octavo chat --model Qwen/Qwen3-0.6B "Why is the sky blue?"

    git diff | octavo chat --system "Write a commit message for this change."
    """
    from octavo.service.commands.chat import chat_with_model

    chat_with_model(prompt, server, system, sampling, engine, config)


@app.command(epilog=SETTINGS_EPILOG)
@takes(sampling=sampling_settings(), engine=ENGINE_SETTINGS)
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to go on from; what is piped in if not given.")
    ] = None,
    server: Address = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with tokens, usage and figures at the end.")
    ] = False,
    config: ConfigFile = None,
    *,
    sampling: dict[str, object],
    engine: dict[str, object],
) -> None:
    """Go on from a text, as it is: no chat, no template.

    [dim]Examples:[/dim]

    octavo generate "The three laws of robotics are" --max-tokens 100

    octavo generate "2 + 2 =" --temperature 0 --max-tokens 4 --json --server localhost:50051
    """
    from octavo.service.commands.generate import generate_text

    generate_text(prompt, server, json, sampling, engine, config)


@app.command()
def top(
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="ADDRESS",
            envvar=ADDRESS_VARIABLE,
            help="A gateway or a pod. \\[default: localhost:50050, then localhost:50051]",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Time between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each look instead.")] = False,
) -> None:
    """Watch pods: how full their KV caches are, what runs and waits, how fast tokens come.

    KV is the share of blocks that live sequences hold; shaded are those that are free but cached.
    Press q to end.

    [dim]Examples:[/dim]

    octavo top --server localhost:50050 [dim](all pods of a gateway)[/dim]

    octavo top --once --json | jq '.models[].pods[] | {address, kv_utilization}'
    """
    from octavo.service.commands.top import show_top

    show_top(server, interval, once, json)
