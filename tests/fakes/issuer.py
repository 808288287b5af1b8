"""An identity provider: discovery, keys that can be replaced, and the tokens it signs."""

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.fakes import answers
from tests.fakes.answers import Answer
from tests.fakes.clock import FakeClock
from tests.fakes.origin import Origin
from tests.fakes.wire import Recorded

AUDIENCE = "mirror"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


class Signer:
    """A key with a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, claims: dict[str, Any], **header: str) -> str:
        return jwt.encode(claims, self.key, "ES256", headers={"kid": self.name, **header})

    def public(self) -> dict[str, Any]:
        key = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {**key, "kid": self.name, "use": "sig", "alg": "ES256"}


class Issuer(Origin):
    """Signs with the newest key, publishes all that are in ``signers``."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.signers = [Signer("one")]
        self.called: str | None = None
        self.odd_keys: list[dict[str, Any]] = []

    def rotate(self, name: str) -> None:
        """Sign with a new key from here on, and forget the old one."""
        self.signers = [Signer(name)]

    def token(self, **claims: Any) -> str:  # noqa: ANN401 -- any JSON
        now = self.clock()
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 600}
        return self.signers[-1].sign({k: v for k, v in (usual | claims).items() if v is not None})

    def answer(self, request: Recorded) -> Answer:
        if request.path == "/.well-known/openid-configuration":
            issuer = self.called or self.url
            return answers.json_answer({"issuer": issuer, "jwks_uri": f"{self.url}/keys"})
        if request.path == "/keys":
            odd = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}
            return answers.json_answer(
                {"keys": [odd, *self.odd_keys, *(each.public() for each in self.signers)]}
            )
        return answers.text(404, "404 page not found\n")


class KubernetesServer(Origin):
    """Reviews tokens of service accounts."""

    def __init__(self, own_token: str) -> None:
        super().__init__()
        self._own = f"Bearer {own_token}"
        self.accounts: dict[str, tuple[str, list[str]]] = {}
        self.audiences = [AUDIENCE]

    def answer(self, request: Recorded) -> Answer:
        if request.path != REVIEWS or request.method != "POST":
            return answers.text(404, "404 page not found\n")
        if request.authorization != self._own:
            return answers.error(403, "Forbidden")
        spec = json.loads(request.body)["spec"]
        account = self.accounts.get(spec["token"])
        status: dict[str, Any] = {"authenticated": False, "error": "invalid bearer token"}
        if account is not None:
            user = {"username": account[0], "groups": account[1]}
            good = [each for each in spec["audiences"] if each in self.audiences]
            status = {"authenticated": bool(good), "user": user, "audiences": good}
        return answers.json_answer({"kind": "TokenReview", "status": status})
