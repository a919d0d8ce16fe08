"""Command lines that are nothing but settings, read without the library that reads all others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo.service.settings import Setting

CONFIG = "--config"


class PlainArguments(NamedTuple):
    """flags: unparsed, by setting's name. config: of `--config`. positional: what has no flag before it."""

    flags: dict[str, object]
    config: Path | None
    positional: str | None


def read(arguments: Iterable[str], settings: Iterable[Setting]) -> PlainArguments | None:
    """What the arguments say; None where they are no plain settings, be it a mistake or a call for help."""
    known = {setting.flag: setting for setting in settings}
    switches = {flag: (setting.name, True) for flag, setting in known.items() if setting.type is bool}
    switches |= {f"--no-{flag[2:]}": (name, False) for flag, (name, _) in switches.items()}
    flags: dict[str, object] = {}
    config: Path | None = None
    positional: str | None = None
    rest = iter(arguments)
    for argument in rest:
        flag, equals, text = argument.partition("=")
        if argument in switches:
            name, flags[name] = switches[argument]
        elif flag == CONFIG or (flag in known and flag not in switches):
            value = text if equals else next(rest, None)
            if not value or (not equals and value.startswith("-")):
                return None
            if flag == CONFIG:
                config = Path(value)
            else:
                flags[known[flag].name] = value
        elif not argument.startswith("-") and argument and positional is None:
            positional = argument
        else:
            return None
    return PlainArguments(flags, config, positional)
