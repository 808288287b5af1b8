"""The APIs of three clouds that give a machine its login, each as far as a mirror uses it."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.fakes import answers
from tests.fakes.answers import Answer
from tests.fakes.auth import BasicGuard, basic_credentials
from tests.fakes.origin import Origin
from tests.fakes.wire import Recorded

_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


def form_of(request: Recorded) -> dict[str, str]:
    """Return the fields of a form."""
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


@dataclass(slots=True)
class Key:
    """A key that AWS knows."""

    secret: str
    session: str | None = None


class FakeAws(Origin):
    """ECR, ECR Public, STS, the metadata of an instance and that of a container."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.keys = {
            "AKIDTEST": Key("secret/of+test"),
            "ASIAROLE": Key("of-role", "session-of-role"),
        }
        self.web_identity = "token-of-the-cluster"
        self.container_token = "token-of-the-container"
        self.role_is_there = True
        self.lifetime_seconds = 12 * 3600
        self.passwords: list[str] = []
        self.scopes: list[tuple[str, str]] = []
        """Region and service of each signature that was right."""

    def answer(self, request: Recorded) -> Answer:
        target = request.header("X-Amz-Target")
        if target is not None:
            return self._authorization_token(request, target)
        if request.method == "POST":
            return self._assume_role(form_of(request))
        return self._metadata(request)

    def _authorization_token(self, request: Recorded, target: str) -> Answer:
        problem = self._signature_problem(request)
        if problem:
            kind = f"com.amazon.coral.service#{problem}"
            return answers.json_answer({"__type": kind, "message": "no"}, status=400)
        self.passwords.append(f"ecr-password-{len(self.passwords)}")
        entry = {
            "authorizationToken": base64.b64encode(f"AWS:{self.passwords[-1]}".encode()).decode(),
            "expiresAt": self.clock() + self.lifetime_seconds,
            # Amazon's own helper looks for it.
            "proxyEndpoint": f"https://123456789012.dkr.ecr.{self.scopes[-1][0]}.amazonaws.com",
        }
        is_public = target == "SpencerFrontendService.GetAuthorizationToken"
        return answers.json_answer({"authorizationData": entry if is_public else [entry]})

    def _signature_problem(self, request: Recorded) -> str:
        """Check the signature by the book, over what came in; return what is wrong with it."""
        found = _SIGNED.fullmatch(request.authorization or "")
        if found is None:
            return "MissingAuthenticationTokenException"
        key_id, day, region, service, names, signature = found.groups()
        key = self.keys.get(key_id)
        if key is None or request.header("X-Amz-Security-Token") != key.session:
            return "UnrecognizedClientException"
        lines = [f"{name}:{request.header(name)}" for name in names.split(";")]
        digest = hashlib.sha256(request.body).hexdigest()
        canonical = "\n".join([request.method, request.path, "", *lines, "", names, digest])
        stamp, scope = request.header("X-Amz-Date"), f"{day}/{region}/{service}/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        signing = f"AWS4{key.secret}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        if hmac.new(signing, text.encode(), "sha256").hexdigest() != signature:
            return "InvalidSignatureException"
        self.scopes.append((region, service))
        return ""

    def _assume_role(self, form: dict[str, str]) -> Answer:
        if form.get("WebIdentityToken") != self.web_identity or "role/" not in form["RoleArn"]:
            return answers.text(403, "<ErrorResponse><Code>AccessDenied</Code></ErrorResponse>")
        return answers.text(
            200,
            "<AssumeRoleWithWebIdentityResponse><Credentials><SessionToken>session-of-role"
            "</SessionToken><SecretAccessKey>of-role</SecretAccessKey>"
            "<AccessKeyId>ASIAROLE</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResponse>",
            "text/xml",
        )

    def _metadata(self, request: Recorded) -> Answer:
        of_role = {
            "AccessKeyId": "ASIAROLE",
            "SecretAccessKey": "of-role",
            "Token": "session-of-role",
        }
        if request.path == "/container":
            is_right = request.authorization == self.container_token
            return answers.json_answer(of_role) if is_right else answers.text(401, "")
        if request.path == "/latest/api/token":
            has_ttl = request.header("X-aws-ec2-metadata-token-ttl-seconds") is not None
            is_right = request.method == "PUT" and has_ttl
            return answers.text(200, "imds-session") if is_right else answers.text(400, "")
        if request.header("X-aws-ec2-metadata-token") != "imds-session":
            return answers.text(401, "")
        place = "/latest/meta-data/iam/security-credentials/"
        if request.path == place:
            return answers.text(200 if self.role_is_there else 404, "node-role")
        is_role = request.path == f"{place}node-role"
        return answers.json_answer(of_role) if is_role else answers.text(404, "")


class PasswordsOfAws(BasicGuard):
    """Guards a registry: takes all passwords that the API has issued and that have not expired."""

    def __init__(self, issued: list[str]) -> None:
        super().__init__(users={})
        self.issued = issued

    def refusal(self, request: Recorded) -> Answer | None:
        user, password = basic_credentials(request) or ("", "")
        self.users = {"AWS": password} if user == "AWS" and password in self.issued else {}
        return BasicGuard.refusal(self, request)


@dataclass(slots=True)
class Assertion:
    """A JWT that was shown."""

    header: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)


class FakeGoogle(Origin):
    """The metadata server and the token endpoint of service accounts."""

    def __init__(self, public_key: rsa.RSAPublicKey | None = None) -> None:
        super().__init__()
        self.public_key = public_key
        self.assertions: list[Assertion] = []
        self.tokens: list[str] = []
        self.users: dict[str, str] = {}
        """Who may log in to Google's registries: with the last token."""

    def answer(self, request: Recorded) -> Answer:
        if request.path == "/token":
            return self._for_assertion(form_of(request))
        is_right = request.path == "/computeMetadata/v1/instance/service-accounts/default/token"
        if not is_right or request.header("Metadata-Flavor") != "Google":
            return answers.text(403, "")
        return self._token()

    def _for_assertion(self, form: dict[str, str]) -> Answer:
        head, claims, signature = form["assertion"].split(".")
        assert self.public_key is not None
        signed = f"{head}.{claims}".encode()
        self.public_key.verify(_unpadded(signature), signed, padding.PKCS1v15(), SHA256())
        self.assertions.append(
            Assertion(json.loads(_unpadded(head)), json.loads(_unpadded(claims)))
        )
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        return self._token()

    def _token(self) -> Answer:
        self.tokens.append(f"ya29.google-{len(self.tokens)}")
        self.users["oauth2accesstoken"] = self.tokens[-1]
        fields = {"access_token": self.tokens[-1], "expires_in": 3599, "token_type": "Bearer"}
        return answers.json_answer(fields)


class FakeAzure(Origin):
    """Entra ID, the managed identities, and a registry's own exchange and token endpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.service = ""
        """The registry that the exchange is for."""
        self.assertion = "token-of-the-cluster"
        self.client_secret = "secret-of-the-client"
        self.refresh_tokens: list[str] = []
        self.access_tokens: list[str] = []
        self.expired: set[str] = set()

    def answer(self, request: Recorded) -> Answer:
        doors = {
            "/tenant/oauth2/v2.0/token": self._application,
            "/metadata/identity/oauth2/token": self._machine,
            "/app-service": self._machine,
            "/oauth2/exchange": self._exchanged,
            "/oauth2/token": self._token,
        }
        door = doors.get(request.path)
        return answers.text(404, "") if door is None else door(request)

    def _application(self, request: Recorded) -> Answer:
        form = form_of(request)
        proofs = (form.get("client_assertion"), form.get("client_secret"))
        if form["client_id"] != "client" or form["scope"] != (
            "https://containerregistry.azure.net/.default"
        ):
            return answers.json_answer({"error": "invalid_client"}, status=401)
        if proofs not in {(self.assertion, None), (None, self.client_secret)}:
            return answers.json_answer({"error": "invalid_client"}, status=401)
        return answers.json_answer({"access_token": "aad-token", "expires_in": 3599})

    @staticmethod
    def _machine(request: Recorded) -> Answer:
        is_app = request.header("X-IDENTITY-HEADER") == "header-of-the-app"
        version = "2019-08-01" if is_app else "2018-02-01"
        knows_how = is_app or request.header("Metadata") == "true"
        if not knows_how or request.parameter("api-version") != version:
            return answers.json_answer({"error": "invalid_request"}, status=400)
        return answers.json_answer({"access_token": "aad-token", "expires_in": "3599"})

    def _exchanged(self, request: Recorded) -> Answer:
        form = form_of(request)
        expected = {
            "grant_type": "access_token",
            "service": self.service,
            "access_token": "aad-token",
        }
        if {name: form.get(name) for name in expected} != expected:
            return answers.error(401, "UNAUTHORIZED")
        self.refresh_tokens.append(f"refresh-{len(self.refresh_tokens)}")
        return answers.json_answer({"refresh_token": self.refresh_tokens[-1]})

    def _token(self, request: Recorded) -> Answer:
        form = form_of(request)
        refresh = form.get("refresh_token")
        is_right = request.method == "POST" and form.get("grant_type") == "refresh_token"
        if not is_right or refresh not in self.refresh_tokens or refresh in self.expired:
            return answers.error(401, "UNAUTHORIZED")
        self.access_tokens.append(f"access-{len(self.access_tokens)}-{form['scope']}")
        return answers.json_answer({"access_token": self.access_tokens[-1]})


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
