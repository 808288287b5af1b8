"""One function for each reader of foreign input: any bytes go in, and what must hold is checked.

A reader may refuse by the errors that it documents; anything else that it raises is a finding.
"""

import asyncio
import atexit
import base64
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from mirror.config import ConfigError, load, show
from mirror.domain.backoff import retry_after_seconds
from mirror.domain.budget import Budget, Reading
from mirror.domain.bundles import (
    BLOCK_BYTES,
    CONTENTS,
    BundleInvalidError,
    header,
    object_path,
    read_contents,
    read_inventory,
    read_size,
)
from mirror.domain.challenge import Origin, parse_challenges, realm_allowed, usable
from mirror.domain.claims import ClaimRules
from mirror.domain.credentials import Bearer, MalformedError, parse_authorization
from mirror.domain.errors import (
    ManifestInvalidError,
    MirrorError,
    PageSizeInvalidError,
    UpstreamTroubleError,
)
from mirror.domain.htpasswd import parse_htpasswd, parse_tokens
from mirror.domain.images import parse_image, parse_pin
from mirror.domain.logins import UnreadableError, find_login, read_helper_answer
from mirror.domain.manifests import read_manifest
from mirror.domain.media import MANIFEST_TYPES, accepts, bare_type
from mirror.domain.names import Digest, Repository
from mirror.domain.pages import PAGE_MAX_ENTRIES, next_query, page_size
from mirror.domain.ranges import Span, parse_content_range, select
from mirror.domain.redirects import next_hop, redact
from mirror.domain.referrers import filtered
from mirror.domain.routing import Table
from mirror.observe.logs import redact_text
from mirror.runtime.clock import Clock
from mirror.service.identity_tokens import KeyRing, OidcTokens
from mirror.service.identity_tokens import _usable as _oidc_usable
from mirror.service.lists import _check_index, _read_tags, _tags
from mirror.store.inventory import platform_of
from mirror.store.refs import BlobRef, ManifestRef, TagRef, read_ref
from mirror.store.sidecar import read_sidecar, sidecar_path
from mirror.upstream.reading import Document
from mirror.upstream.tokens import read_token

_TABLE: Final = Table(
    {"docker.io": "docker.io", "index.docker.io": "docker.io", "ghcr.io": "ghcr.io"},
    {"hub.mirror": "docker.io"},
)
_DIGEST: Final = "sha256:" + "ab" * 32
_SIZES: Final = (0, 1, 10, 1 << 40)
_OCI: Final = "application/vnd.oci.image.manifest.v1+json"
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, examples of what it reads, and words that its grammar has."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[str] = ()
    max_bytes: int = 4096


def _lines(data: bytes, count: int) -> list[str]:
    """Return so many texts, as header lines come in."""
    parts = data.decode("utf-8", "surrogateescape").split("\n")
    return (parts + [""] * count)[:count]


def request_path(data: bytes) -> None:
    path, query, host = _lines(data, 3)
    with suppress(MirrorError):
        route = _TABLE.parse(path, query, host)
        if route.repository is not None:
            assert route.repository.upstream in {"docker.io", "ghcr.io"}
            assert _is_plain(route.repository.name)
        assert route.reference is None or _is_plain(str(route.reference))
        with suppress(PageSizeInvalidError):
            size = page_size(route.query)
            assert size is None or 0 <= size <= PAGE_MAX_ENTRIES
    for read in (parse_image, parse_pin):
        with suppress(MirrorError, ValueError):
            assert _is_plain(read(path, _TABLE)[0].name)


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and not {"", ".", ".."} & set(name.split("/"))


def byte_range(data: bytes) -> None:
    asked, answered = _lines(data, 2)
    for size in _SIZES:
        span = select(asked, size)
        assert not isinstance(span, Span) or 0 <= span.start < span.stop <= size
    found = parse_content_range(answered)
    assert found is None or found[0].start < found[0].stop


def accept(data: bytes) -> None:
    lines = _lines(data, 3)
    for media_type in MANIFEST_TYPES:
        assert isinstance(accepts(lines, media_type), bool)
    bare = bare_type(lines[0])
    assert bare is None or (bare.isascii() and bare.isprintable() and " " not in bare)


def challenge(data: bytes) -> None:
    first, second, location = _lines(data, 3)
    challenges = parse_challenges([first, second])
    chosen = usable(challenges)
    realm = (chosen.get("realm") if chosen else None) or ""
    home = "https://registry.example/v2/"
    if realm_allowed(realm, home, extra_hosts=("auth.example",), same_site=lambda _a, _b: False):
        origin = Origin.of(realm)
        assert origin is not None
        assert (origin.scheme, origin.host) in {
            ("https", "registry.example"),
            ("https", "auth.example"),
        }
    redact(realm)
    with suppress(UpstreamTroubleError):
        target = Origin.of(next_hop(home, location))
        assert target is not None
        assert target.scheme == "https"


def manifest(data: bytes) -> None:
    media_type, _, content = data.partition(b"\n")
    stated = media_type.decode("latin-1") or None
    with suppress(ManifestInvalidError):
        read = read_manifest(content, stated, Digest.parse(_DIGEST))
        assert read.content == content
        assert all(link.size_bytes >= 0 for link in read.links)
        assert read.media_type in MANIFEST_TYPES


def token(data: bytes) -> None:
    with suppress(UpstreamTroubleError):
        read = read_token(data, "https://auth.example/token")
        assert 0 < read.lifetime_seconds <= 24 * 3600
        assert read.value.isascii()
        assert read.value.isprintable()


def lists(data: bytes) -> None:
    document = Document(data, "application/json", None, filters_applied=False)
    with suppress(UpstreamTroubleError):
        tags, name = _read_tags(document, Repository("docker.io", "team/app"))
        _tags(name, tags, None)
    with suppress(UpstreamTroubleError):
        _check_index(document)
    with suppress(UpstreamTroubleError):
        assert json.loads(filtered(data, "application/x"))["manifests"] is not None
    platform_of(data)


def stored(data: bytes) -> None:
    """Files of the cache directory, after a disk has done its worst."""
    path = _directory() / "stored"
    path.write_bytes(data)
    sidecar_path(path).write_bytes(data)
    read_ref(path, TagRef)
    read_ref(path, ManifestRef)
    read_ref(path, BlobRef)
    read_sidecar(path)


def bundle(data: bytes) -> None:
    """What a bundle says of itself, and the heads of its files."""
    with suppress(BundleInvalidError):
        assert all(isinstance(each, str) for each in read_inventory(data))
    with suppress(BundleInvalidError):
        assert 0 <= read_size(data[:BLOCK_BYTES], CONTENTS, 1000) <= 1000
    with suppress(BundleInvalidError):
        contents = read_contents(data)
        for stored_object in contents.objects:
            place = object_path(str(Digest.parse(stored_object.digest)))
            assert _is_plain(place)
            assert read_size(header(place, stored_object.size_bytes), place, 1 << 50) >= 0
        for repository in contents.repositories:
            assert _is_plain(f"{repository.upstream}/{repository.name}")
            assert all(_is_plain(tag.name) for tag in repository.tags)


def link(data: bytes) -> None:
    for key, value in next_query(data.decode("utf-8", "surrogateescape")) or ():
        assert key != "ns"
        assert isinstance(value, str)


def authorization(data: bytes) -> None:
    lines = _lines(data, 2)
    with suppress(MalformedError):
        parse_authorization([line for line in lines if line])
    text = data.decode("utf-8", "replace")
    for read in (parse_htpasswd, parse_tokens):
        read(text)


def logins(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with suppress(UnreadableError):
        find_login(text, ("quay.io", "registry.quay.io"), "team/app")
    with suppress(UnreadableError):
        login = read_helper_answer(text)
        assert login.password or login.identity_token


def limits(data: bytes) -> None:
    remaining, limit, wait = _lines(data, 3)
    headers = {"RateLimit-Remaining": remaining, "RateLimit-Limit": limit}
    reading = Reading.of({name.lower(): value for name, value in headers.items()}, 0.0)
    if reading is not None:
        budget = Budget((reading,))
        assert budget.share(0.0) >= 0
        budget.empty_in_seconds(1.0)
    seconds = retry_after_seconds(wait, _NOW)
    assert seconds is None or seconds >= 0


def log_text(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    redact_text(text)
    assert "canary" not in redact_text(
        f'{text} https://u:canary@h/p?sig=canary "password": "canary"'
    )


def identity(data: bytes) -> None:
    """Tokens of OpenID issuers: whole, and made of a header, claims and a signature; and keys."""
    parts = data.split(b"\n")
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts[:3])
    for shown in (token, data.decode("utf-8", "surrogateescape")):
        assert _runner().run(_oidc().identify(Bearer(shown))) is None  # nothing here is signed
    with suppress(ValueError, RecursionError):
        claims = json.loads(parts[0])
        if isinstance(claims, dict):
            _CLAIMS.identity(claims, 1.8e9)
            _oidc_usable([claims])


_CLAIMS: Final = ClaimRules(issuer="https://issuer.example", audience="mirror", required={})


async def _keys() -> Sequence[Mapping[str, Any]]:
    return [_PUBLIC_KEY]


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


@cache
def _oidc() -> OidcTokens:
    clock = Clock()
    return OidcTokens(_CLAIMS, KeyRing(_CLAIMS.issuer, _keys, clock), clock)


@cache
def _directory() -> Path:
    directory = tempfile.mkdtemp(prefix="mirror-fuzz-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def config(data: bytes) -> None:
    file, _, variables = data.partition(b"\n---\n")
    path = _directory() / "mirror.yaml"
    path.write_bytes(file)
    pairs = (line.partition("=") for line in variables.decode("utf-8", "replace").split("\n"))
    environ = {f"MIRROR_{name}": value for name, _, value in pairs if name and "\0" not in value}
    try:
        loaded = load(path, environ)
    except ConfigError as error:
        if not error.problems or not str(error):
            raise
        return
    shown = show(loaded.settings)
    path.write_text(shown, encoding="utf-8")
    if "****" not in shown:
        assert show(load(path, {}).settings) == shown


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_PUBLIC_KEY: Final = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "k",
    # The point that RFC 7517, appendix A.1, has as an example.
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
_LAYER: Final = {"mediaType": "application/octet-stream", "digest": _DIGEST, "size": 5}

TARGETS: Final[dict[str, Target]] = {
    "request-path": Target(
        request_path,
        [
            b"/v2/library/alpine/manifests/3.20\nns=docker.io\nhub.mirror",
            b"/docker.io/v2/a/b/blobs/" + _DIGEST.encode() + b"\n\n",
            b"/v2/ghcr.io/x/y/tags/list\nn=5&last=a%2Fb\n",
            b"/v2/_catalog\n\n",
            b"ghcr.io/team/app:1.0@" + _DIGEST.encode(),
        ],
        ["/v2/", "manifests/", "blobs/", "referrers/", "tags/list", "sha256:", "%2F", "..", "ns="],
    ),
    "range": Target(
        byte_range,
        [b"bytes=0-5\nbytes 0-4/10", b"bytes=-5", b"bytes=5-\nbytes */10", b"bytes=1-2,3-4"],
        ["bytes=", "bytes ", "-", "/", "*", "9" * 40],
        max_bytes=16 * 1024,
    ),
    "accept": Target(
        accept,
        [f"{_OCI}, */*;q=0.1\napplication/*;q=0".encode(), b"text/plain; charset=utf-8"],
        [_OCI, "*/*", ";q=0", "application/", ","],
    ),
    "challenge": Target(
        challenge,
        [
            b'Bearer realm="https://auth.example/t",service="s",scope="a:b:pull"\nBasic\n/x',
            b'Negotiate abc==, Bearer realm="https:\\/\\/x"\n\nhttps://u:p@h/?sig=a',
        ],
        ["Bearer ", "Basic ", 'realm="', "https://auth.example", "//", "@", "\\", '"', "#"],
    ),
    "manifest": Target(
        manifest,
        [
            _OCI.encode()
            + b"\n"
            + _json({"schemaVersion": 2, "mediaType": _OCI, "config": _LAYER, "layers": [_LAYER]}),
            b"\n"
            + _json({"schemaVersion": 2, "manifests": [{**_LAYER, "platform": {"os": "linux"}}]}),
        ],
        ['"schemaVersion"', '"layers"', '"config"', '"digest"', '"size"', '"urls"', _DIGEST, _OCI],
        max_bytes=64 * 1024,
    ),
    "token": Target(
        token,
        [
            _json({"token": "abc", "expires_in": 300}),
            _json({"access_token": "x", "expires_in": "1e9"}),
        ],
        ['"token"', '"access_token"', '"expires_in"', "NaN", "1e999", "Infinity"],
        max_bytes=16 * 1024,
    ),
    "lists": Target(
        lists,
        [
            _json({"name": "team/app", "tags": ["1.0", "latest"]}),
            _json({"schemaVersion": 2, "manifests": [{"artifactType": "application/x"}]}),
            _json({"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": {}}),
            b'{"name": ' + b"[" * 900 + b"]" * 900 + b', "tags": ["\\ud800"]}',
            b'{"x": ' + b"[" * 3000,
        ],
        ['"tags"', '"name"', '"manifests"', '"artifactType"', "\\ud800", "null", '"os"'],
        max_bytes=8 * 1024,
    ),
    "bundle": Target(
        bundle,
        [
            header(CONTENTS, 700),
            _json({"version": 1, "objects": [_DIGEST]}),
            _json(
                {
                    "version": 1,
                    "index": _DIGEST,
                    "objects": [
                        {
                            "digest": _DIGEST,
                            "size_bytes": 2,
                            "kind": "manifest",
                            "scopes": ["_"],
                            "carried": True,
                        }
                    ],
                    "repositories": [
                        {
                            "upstream": "docker.io",
                            "name": "library/alpine",
                            "tags": [{"name": "v1", "digest": _DIGEST, "seen_at": 1.5}],
                            "manifests": [{"digest": _DIGEST, "media_type": _OCI, "scope": "_"}],
                            "lists": [],
                        }
                    ],
                }
            ),
        ],
        [
            '"objects":',
            '"scopes":',
            '"carried":',
            '"lists":',
            '"filtered":',
            "../",
            "\\u0000",
            "ustar",
        ],
        max_bytes=8 * 1024,
    ),
    "stored": Target(
        stored,
        [
            _json({"digest": _DIGEST, "seen_at": 1.5, "history": [{"digest": _DIGEST}]}),
            _json({"media_type": _OCI, "scope": "docker.io", "size_bytes": 5}),
            _json({"total_bytes": 10, "upstream": "docker.io", "repositories": ["team/app"]}),
            b"\0" * 64,
        ],
        ['"digest"', '"history"', '"media_type"', '"scope"', '"total_bytes"', _DIGEST, "\0"],
    ),
    "link": Target(
        link,
        [b'</v2/a/tags/list?n=5&last=x>; rel="next"', b"<?last=a>; rel=prev, <b?n=1>; rel=next"],
        ["<", ">", "; rel=", '"next"', "?n=", "&last=", "%", "ns="],
    ),
    "authorization": Target(
        authorization,
        [
            b"Basic dXNlcjpwYXNz\n",
            b"Bearer abc",
            b"ci:$2b$05$" + b"a" * 53,
            b"ci:" + b"t" * 20 + b":a,b",
        ],
        ["Basic ", "Bearer ", ":", "$2b$05$", "dXNlcjpwYXNz"],
    ),
    "logins": Target(
        logins,
        [
            _json({"auths": {"quay.io": {"auth": "dTpw"}}, "credsStore": "x"}),
            _json({"credHelpers": {"https://quay.io/v1/": "gcloud"}}),
            _json({"ServerURL": "x", "Username": "<token>", "Secret": "s"}),
        ],
        ['"auths"', '"auth"', '"quay.io/team"', '"credHelpers"', '"identitytoken"', '"Secret"'],
    ),
    "identity": Target(
        identity,
        [
            b'{"alg":"ES256","kid":"k","typ":"JWT"}\n{"iss":"https://issuer.example"}\nsigned',
            _json({"iss": "https://issuer.example", "aud": ["mirror"], "exp": 2e9, "sub": "a"}),
            _json({**_PUBLIC_KEY, "use": "sig"}),
            b"{}\n" + b"[" * 3000 + b"\n",
        ],
        ['"iss":', '"aud":', '"exp":', '"alg":', '"kid":"k"', '"kty":', "https://issuer.example"],
        max_bytes=8 * 1024,
    ),
    "limits": Target(
        limits,
        [b"76;w=21600\n100;w=21600\n30", b"1\n2\nWed, 21 Oct 2026 07:28:00 GMT"],
        [";w=", "GMT", "Wed, ", "9" * 30],
        max_bytes=16 * 1024,
    ),
    "log-text": Target(
        log_text,
        [b"https://user:pass@host/path?sig=1 Bearer abcd", b'{"password": "x", "token"=\'y\'}'],
        ["://", "@", "?", "Bearer ", "password=", "'", '"', "sig"],
    ),
    "config": Target(
        config,
        [
            Path("config/mirror.yaml").read_bytes()
            if Path("config/mirror.yaml").exists()
            else b"{}",
            b"cache: {max_size: 10GiB}\n---\nLOG__LEVEL=debug\nUPSTREAMS={}",
            b"upstreams:\n  x.io: {credentials: {username: a, password: b}}\n",
            b"policy: {tag_rules: [{match: '**', ttl: 1m}]}\npins: [{image: alpine}]",
        ],
        [
            "upstreams:",
            "policy: {",
            "&a ",
            "*a",
            "<<: ",
            "!!",
            "- ",
            "null",
            "MIRROR_",
            "10GiB",
            "5%",
        ],
        max_bytes=8 * 1024,
    ),
}
