"""The file of a bundle: compressed or not, written whole or not at all, signed and checked."""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol

import zstandard
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from mirror.domain.bundles import (
    BLOCK_BYTES,
    CONTENTS,
    CONTENTS_MAX_BYTES,
    SIGNATURE,
    SIGNATURE_BYTES,
    BundleInvalidError,
    Contents,
    header,
    padding,
    read_contents,
    read_inventory,
    read_size,
)

_PIECE_BYTES: Final = 1 << 20
_LEVEL: Final = 3
_ENDINGS: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_WINDOW_MAX_BYTES: Final = 128 << 20


class BundleFileError(Exception):
    """The file or the key is not what it should be; the message says why."""


class _Sink(Protocol):
    def write(self, piece: bytes, /) -> Any: ...  # noqa: ANN401 -- what files return
    def close(self) -> None: ...


def check_name(path: Path) -> None:
    """Raise BundleFileError unless the name says how the file is to be written."""
    if not path.name.endswith(_ENDINGS):
        raise BundleFileError(f"{path} must end with one of {', '.join(_ENDINGS)}")


@contextmanager
def writing(path: Path, *, is_private: bool = False) -> Iterator[_Sink]:
    """Write a file that gets its name when it is whole."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with scratch.open("xb") as raw:
            if is_private:
                scratch.chmod(0o600)
            sink = _compressed(raw, path.name)
            yield sink
            if sink is not raw:
                sink.close()
            raw.flush()
            os.fsync(raw.fileno())
        scratch.replace(path)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _compressed(raw: IO[bytes], name: str) -> _Sink:
    if name.endswith(".zst"):
        compressor = zstandard.ZstdCompressor(_LEVEL, write_checksum=True)
        return compressor.stream_writer(raw, closefd=False)
    if name.endswith((".gz", ".tgz")):
        # No name and no time in it: the same content makes the same bytes.
        return gzip.GzipFile("", "wb", 6, raw, mtime=0)
    return raw


def inventory(path: Path) -> bytes:
    """Return what an inventory file says; raises BundleFileError."""
    content = path.read_bytes()
    try:
        read_inventory(content)
    except BundleInvalidError as error:
        raise BundleFileError(
            f"{path}: {error}; `mirror cache inventory > FILE` writes one"
        ) from None
    return content


def reading(path: Path) -> Iterator[bytes]:
    """Yield what is in the file, however it is compressed; raises BundleFileError."""
    with path.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        source: Any = raw
        if magic == b"\x28\xb5\x2f\xfd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX_BYTES)
            source = decompressor.stream_reader(raw, read_across_frames=True)
        elif magic[:2] == b"\x1f\x8b":
            source = gzip.GzipFile(fileobj=raw)
        try:
            while piece := source.read(_PIECE_BYTES):
                yield piece
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, ValueError) as error:
            raise BundleFileError(f"{path} is corrupt: {error}") from None
        except OSError as error:
            raise BundleFileError(f"{path} cannot be read: {error.strerror or error}") from None


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key in PEM; raises BundleFileError."""
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise BundleFileError(
        f"{path} is not an Ed25519 private key in PEM without a password: "
        "`openssl genpkey -algorithm ed25519 -out key.pem` makes one"
    )


def verifying_key(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM; raises BundleFileError."""
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_public_key(path.read_bytes())
        if isinstance(key, Ed25519PublicKey):
            return key
    raise BundleFileError(
        f"{path} is not an Ed25519 public key in PEM: "
        "`openssl pkey -in key.pem -pubout -out public.pem` makes one"
    )


class Head:
    """Passes a bundle on, and looks at its head on the way.

    It can put a signature in, or refuse a bundle whose signature is missing or wrong before
    anything is passed on.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        sign: Ed25519PrivateKey | None = None,
        verify: Ed25519PublicKey | None = None,
    ) -> None:
        self._pieces = pieces
        self._rest = b""
        self._sign = sign
        self._verify = verify
        self.contents: Contents | None = None
        self.is_signed = False

    def __iter__(self) -> Iterator[bytes]:
        block = self._exactly(BLOCK_BYTES)
        size_bytes = read_size(block, CONTENTS, CONTENTS_MAX_BYTES)
        content = self._exactly(size_bytes)
        filled = self._exactly(len(padding(size_bytes)))
        following = self._exactly(BLOCK_BYTES)
        self.is_signed = following == header(SIGNATURE, SIGNATURE_BYTES)
        signature = self._exactly(BLOCK_BYTES) if self.is_signed else b""
        if self._verify is not None:
            _check(self._verify, content, signature)
        self.contents = read_contents(content)
        yield block + content + filled
        if self._sign is not None:
            signed = self._sign.sign(content)
            yield header(SIGNATURE, SIGNATURE_BYTES) + signed + padding(SIGNATURE_BYTES)
        yield following + signature
        if self._rest:
            yield self._rest
        yield from self._pieces

    def _exactly(self, count: int) -> bytes:
        parts, missing = [], count
        while missing:
            if not self._rest:
                self._rest = next(self._pieces, b"")
            if not self._rest:
                raise BundleInvalidError("the bundle ends in the middle")
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _check(key: Ed25519PublicKey, content: bytes, signature: bytes) -> None:
    if not signature:
        raise BundleFileError("the bundle is not signed; nothing of it was entered")
    try:
        key.verify(signature[:SIGNATURE_BYTES], content)
    except InvalidSignature:
        raise BundleFileError(
            "the bundle was signed with another key, or changed since; nothing of it was entered"
        ) from None
