"""The `octavo` command's entry: what it starts by, and how it ends when something is wrong.

A pod's command, `octavo serve` with settings and nothing else, is read right here. What reads all other
command lines, and shows help and errors, takes a tenth of a second to import.
"""

from __future__ import annotations

import os
import sys
import time

from octavo.engine import ConfigError, EngineStopped, ModelError
from octavo.service.failures import ServerError

STARTED = time.monotonic()


def main() -> None:
    """Exit code 2 for what the user can mend before trying again, 1 for what failed on the way."""
    # gRPC would tell on stderr, in its own way, what we tell in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        if sys.argv[1:2] != ["serve"] or not _serve(sys.argv[2:]):
            from octavo.service.command_line import app

            app()
    except (ConfigError, ModelError) as error:
        _fail(str(error), 2)
    except (EngineStopped, ServerError) as error:
        _fail(str(error), 1)
    sys.exit(0)


def _serve(arguments: list[str]) -> bool:
    """`octavo serve`, if the arguments can be read without help; False if not."""
    from octavo.service.config import ENGINE_SETTINGS, SERVER_SETTINGS
    from octavo.service.plain_arguments import read

    settings = [setting for setting in (*ENGINE_SETTINGS, *SERVER_SETTINGS) if setting.name != "model"]
    plain = read(arguments, settings)
    if plain is None:
        return False
    from octavo.service.commands.serve import serve_model

    serve_model(
        plain.flags | ({"model": plain.positional} if plain.positional else {}), plain.config, STARTED
    )
    return True


def _fail(message: str, code: int) -> None:
    print(f"octavo: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
