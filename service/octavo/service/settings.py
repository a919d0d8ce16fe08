"""Settings as data: one definition in a dataclass's fields, read from flags, environment and a YAML file."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from octavo.engine import ConfigError
from octavo.service.plain_values import UNSURE, Bounds, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pydantic import TypeAdapter

PREFIX = "OCTAVO_"

# What Kubernetes puts into every container for a Service whose name begins with "octavo".
SERVICE_LINK = re.compile(r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w*PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `max_model_len` in a file, `--max-model-len`, and `OCTAVO_MAX_MODEL_LEN`."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def parse(self, value: object, source: str) -> Any:
        """The value as this setting's type. ConfigError names the source, the value and the rule.

        A mapping may be a list of texts such as `key=value`, as a flag that is given many times has them.
        """
        if get_origin(self.type) is Mapping and isinstance(value, list):
            value = dict(_entry(text, source) for text in value)
        if (plain := read(self.type, value)) is not UNSURE:
            return plain
        from pydantic import ValidationError

        try:
            return _adapter(self.type).validate_python(value)
        except ValidationError as error:
            rule = error.errors(include_url=False)[0]["msg"]
            message = f"{source}: {rule[0].lower()}{rule[1:]} (got {value!r})"
            raise ConfigError(message) from None


def _entry(text: str, source: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{source}: must be KEY=VALUE (got {text!r})")
    return key, value


@functools.cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, Field, TypeAdapter

    if get_origin(type_) is Annotated:
        base, *rules = get_args(type_)
        as_field = [Field(**rule._asdict()) if isinstance(rule, Bounds) else rule for rule in rules]
        type_ = Annotated[base, *as_field]
    return TypeAdapter(type_, config=ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False))


def settings_of(owner: type) -> tuple[Setting, ...]:
    """The fields of a configuration dataclass, in their order. A field without help is no setting."""
    hints = get_type_hints(owner, include_extras=True)
    return tuple(
        Setting(field.name, hints[field.name], field.default, field.metadata["help"])
        for field in dataclasses.fields(owner)
        if "help" in field.metadata
    )


def resolve(
    settings: Iterable[Setting],
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None,
    reserved: Iterable[str] = (),
) -> dict[str, Any]:
    """The values that were set, by name; flags go before the environment, and that before the file.

    `reserved` are variables with the prefix that have another use. An empty variable counts as not set.
    ConfigError for a value that does not fit, and for a key or a variable with the prefix that is no setting.
    """
    known = {setting.name: setting for setting in settings}
    values: dict[str, Any] = {}
    for name, value in _read_file(file).items() if file else ():
        if name not in known:
            raise ConfigError(f"key {name!r} in {file}: is no setting{_suggestion(name, known)}")
        values[name] = known[name].parse(value, f"key {name!r} in {file}")
    variables = {setting.variable: setting for setting in known.values()}
    for variable, text in _own_variables(environment, reserved):
        if variable not in variables:
            hint = _suggestion(variable, variables)
            raise ConfigError(f"environment variable {variable}: is no setting{hint} (got {text!r})")
        setting = variables[variable]
        values[setting.name] = setting.parse(text, f"environment variable {variable}")
    for name, value in flags.items():
        values[name] = known[name].parse(value, f"flag {known[name].flag}")
    return values


def _own_variables(environment: Mapping[str, str], reserved: Iterable[str]) -> Iterator[tuple[str, str]]:
    passed_over = frozenset(reserved)
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in passed_over or not text:
            continue
        if SERVICE_LINK.fullmatch(variable) or re.match(r"(tcp|udp|sctp)://", text):
            continue
        yield variable, text


def _read_file(path: Path) -> dict[str, object]:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.2 has no truths but true and false: `off` is a word, as our settings mean it."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # which is a safe one
    except OSError as error:
        raise ConfigError(f"configuration file {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        shown = " ".join(str(error).split())
        raise ConfigError(f"configuration file {path}: is not valid YAML: {shown}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {path}: must be a mapping of settings (got {content!r})")
    return content


def _suggestion(name: object, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
