"""A token server as Docker's, which knows one user, and the key that a registry trusts."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import encode_basic_auth, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from .loop_thread import LoopThread, Server

ISSUER = "e2e tokens"
SERVICE = "e2e registry"
USER = "mirror"
PASSWORD = secrets.token_urlsafe(12)
OUR_USER = encode_basic_auth(USER, PASSWORD)
LIFE_SECONDS = 300


@dataclass
class Key:
    """An RSA key, named as distribution's libtrust names it."""

    private: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    @property
    def id(self) -> str:
        """Twelve groups of base32 over the first 240 bits of the key's SHA-256."""
        public = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        name = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
        return ":".join(name[start : start + 4] for start in range(0, len(name), 4))

    def write_certificate(self, path: Path) -> None:
        """Write what the registry's ``rootcertbundle`` is to hold."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(self.private, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, claims: dict[str, Any]) -> str:
        """Return a JSON Web Token."""
        header = {"typ": "JWT", "alg": "RS256", "kid": self.id}
        signed = f"{_encoded_json(header)}.{_encoded_json(claims)}"
        signature = self.private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encoded(signature)}"


class TokenServer(Server):
    """Gives pull tokens to its one user and to nobody else."""

    def __init__(self, loop: LoopThread, port: int, key: Key) -> None:
        super().__init__(loop, port)
        self.given = 0
        self.refused = 0
        self.key = key

    @property
    def realm(self) -> str:
        """The address that a registry names in its challenge."""
        return f"{self.url}/token"

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/token", self._token)
        return app

    async def _token(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != OUR_USER:
            self.refused += 1
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        self.given += 1
        claims = claims_of(request.query.getall("scope", []))
        return web.json_response({"token": self.key.sign(claims), "expires_in": LIFE_SECONDS})


def claims_of(scopes: list[str]) -> dict[str, Any]:
    """Return what a token says that lets its holder pull what the scopes name."""
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": USER,
        "aud": SERVICE,
        "iat": now,
        "nbf": now - 10,
        "exp": now + LIFE_SECONDS,
        "jti": secrets.token_hex(8),
        "access": [_access(scope) for part in scopes for scope in part.split()],
    }


def _access(scope: str) -> dict[str, Any]:
    kind, name, actions = scope.split(":", 2)
    wanted = set(actions.split(","))
    return {"type": kind, "name": name, "actions": sorted(wanted & {"pull"})}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encoded_json(value: dict[str, Any]) -> str:
    return _encoded(json.dumps(value).encode())
