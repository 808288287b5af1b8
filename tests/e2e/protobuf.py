"""The corner of protocol buffers that two CRI messages need: nested bytes."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, LENGTH_DELIMITED = 0, 2


def field(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes, a string or a message."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content


def read(message: bytes, wanted: int) -> Iterator[bytes]:
    """Yield the contents of all fields of that number."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        value, position = _read_varint(message, position)
        if kind == VARINT:
            continue
        assert kind == LENGTH_DELIMITED, f"wire type {kind}"
        if number == wanted:
            yield message[position : position + value]
        position += value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
