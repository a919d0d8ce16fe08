"""Messages off the wire: bytes to a message, or to the field that makes it no valid one."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from octavo.engine import InvalidRequest, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

M = TypeVar("M", bound=Message)
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


def parse(message_type: type[M], data: bytes) -> M:
    """The message, all of whose fields and enum values are known. InvalidRequest names the first bad field.

    Protobuf keeps fields that it does not know, for programs that pass messages on. A server that
    ignored them would ignore what a newer client asks for.
    """
    message = message_type()
    try:
        message.ParseFromString(data)
    except DecodeError:
        bad = _invalid_string(message_type.DESCRIPTOR, memoryview(data))
        raise InvalidRequest(bad or Violation("", data, "is no valid protobuf message")) from None
    if _has_unknown_fields(message):
        unknown = next(_unknown(message_type.FromString(data), ""))
        raise InvalidRequest(unknown)
    if (unnamed := next(_unnamed(message, ""), None)) is not None:
        raise InvalidRequest(unnamed)
    return message


def _has_unknown_fields(message: Message) -> bool:
    """Drops what protobuf itself does not know, and so finds out whether a walk through it all is needed.

    Without the walk a chat of half a million messages takes milliseconds, not seconds of everybody's time.
    """
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size


@functools.cache
def _fields_with_enums(descriptor: Any) -> tuple[Any, ...]:
    """The fields that are enums, which keep numbers that they have no name for, or may have one inside."""
    return tuple(
        field
        for field in descriptor.fields
        if field.enum_type is not None or (field.message_type is not None and _has_enum(field.message_type))
    )


def _has_enum(descriptor: Any) -> bool:
    """Whether there is an enum anywhere inside; a message may have others of its own kind there."""
    found, at = [descriptor], 0
    while at < len(found):
        for field in found[at].fields:
            if field.enum_type is not None:
                return True
            if field.message_type is not None and field.message_type not in found:
                found.append(field.message_type)
        at += 1
    return False


def _unnamed(message: Message, path: str) -> Iterator[Violation]:
    """The values of enums that have no name."""
    for field in _fields_with_enums(message.DESCRIPTOR):
        value = getattr(message, field.name)
        if field.enum_type is not None:
            if value not in field.enum_type.values_by_number:
                yield Violation(path + field.name, value, f"must be a value of {field.enum_type.full_name}")
        elif field.is_repeated:
            for i, element in enumerate(value):
                yield from _unnamed(element, f"{path}{field.name}[{i}].")
        elif message.HasField(field.name):
            yield from _unnamed(value, f"{path}{field.name}.")


def _invalid_string(descriptor: Any, data: memoryview) -> Violation | None:
    """The first string, in the order of the wire, that is not valid UTF-8; None if it is another mistake."""
    counts: Counter[int] = Counter()
    try:
        for number, value in _delimited_fields(data):
            field = descriptor.fields_by_number.get(number)
            if field is None:
                continue
            name = f"{field.name}[{counts[number]}]" if field.is_repeated else field.name
            counts[number] += 1
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                inner = _invalid_string(field.message_type, value)
                if inner:
                    return Violation(f"{name}.{inner.field}", inner.value, inner.rule)
            elif field.type == FieldDescriptor.TYPE_STRING:
                try:
                    bytes(value).decode()
                except UnicodeDecodeError:
                    return Violation(name, bytes(value), "must be valid UTF-8")
    except (IndexError, ValueError):
        return None
    return None


def _delimited_fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each length-delimited field (protobuf.dev, Encoding). IndexError if cut off."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            _, at = _varint(data, at)
        elif kind == DELIMITED:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise IndexError(at)
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(kind)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a varint has at most 10 bytes")


def _unknown(message: Message, path: str) -> Iterator[Violation]:
    name = message.DESCRIPTOR.full_name
    unknown_fields: Any = UnknownFieldSet(message)
    for unknown in unknown_fields:
        rule = f"field number {unknown.field_number} of {name} is not known to this server"
        yield Violation(path.rstrip(".") or name, unknown.data, rule)
    for field, value in message.ListFields():
        if (kind := field.message_type) is None or kind.GetOptions().map_entry:
            continue  # a map is of numbers, which are all known
        if field.is_repeated:
            for i, element in enumerate(value):
                yield from _unknown(element, f"{path}{field.name}[{i}].")
        else:
            yield from _unknown(value, f"{path}{field.name}.")
