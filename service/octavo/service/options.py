"""Command line options made from settings, so that no option is defined twice."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from octavo.engine import SamplingParams
from octavo.service.settings import Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FROM_FILES = ("json_schema", "grammar")
"""Sampling parameters of several lines: a flag may give a file instead, as `@path`."""
METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Mapping: "KEY=VALUE"}


def takes(**panels: Iterable[Setting]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds an option for each setting to a typer command; one panel of `--help` for each keyword.

    The command gets those that were given, unparsed and by setting's name, as a dict under the panel's
    name: a `Setting` parses its own value, wherever that came from.
    """
    groups = {name: tuple(settings) for name, settings in panels.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            for panel, settings in groups.items():
                given = {setting.name: arguments.pop(setting.name) for setting in settings}
                arguments[panel] = {name: value for name, value in given.items() if value not in (None, [])}
            command(**arguments)

        parameters = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter for parameter in parameters if parameter.name not in groups]
        made = [_parameter(setting, panel) for panel, settings in groups.items() for setting in settings]
        wrapper.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *made)}
        return wrapper

    return decorate


def sampling_settings() -> tuple[Setting, ...]:
    """The fields of SamplingParams, with the sentences of its docstring as help."""
    import dataclasses
    from typing import get_type_hints

    sentences = dict(_described(inspect.getdoc(SamplingParams) or ""))
    # It imports the name for type checkers only.
    hints = get_type_hints(SamplingParams, localns={"Mapping": Mapping})
    defaults = SamplingParams()
    return tuple(
        Setting(field.name, hints[field.name], getattr(defaults, field.name), sentences[field.name])
        for field in dataclasses.fields(SamplingParams)
    )


def _described(docstring: str) -> Iterator[tuple[str, str]]:
    """(name, sentence) for each `name, other_name: sentence` of a docstring."""
    for entry in re.split(r"\n(?=\w+(?:, \w+)*: )", docstring)[1:]:
        names, _, sentence = entry.partition(": ")
        text = " ".join(sentence.split())
        yield from ((name, text[0].upper() + text[1:]) for name in names.split(", "))


def _parameter(setting: Setting, panel: str) -> inspect.Parameter:
    kind, many = _kind(setting.type)
    names = [setting.flag]
    if kind is bool:
        names = [f"{setting.flag}/--no-{setting.flag[2:]}"]
    information = typer.Option(
        *names,
        help=(setting.help + _default(setting.default)).replace("[", r"\["),
        metavar=None if kind is bool else "TEXT|@FILE" if setting.name in FROM_FILES else _metavar(kind),
        rich_help_panel=panel.capitalize(),
        show_default=False,
    )
    base: Any = bool | None if kind is bool else list[str] | None if many else str | None
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[base, information]
    )


def _kind(type_: Any) -> tuple[Any, bool]:
    """The type behind Annotated and `| None`, and whether many of it are wanted."""
    origin = get_origin(type_)
    if origin is Annotated:
        return _kind(get_args(type_)[0])
    if origin in (Union, UnionType):
        return _kind(next(part for part in get_args(type_) if part is not NoneType))
    if origin is tuple:
        return get_args(type_)[0], True
    if origin is Mapping:
        return Mapping, True
    return type_, False


def _metavar(kind: Any) -> str:
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else METAVARS[kind]


def _default(default: Any) -> str:
    if default is None or default in ("", (), {}):
        return ""
    return f" [default: {str(default).lower() if isinstance(default, bool) else default}]"
