"""A registry that behaves like the specification until it is told otherwise."""

import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import unquote

from tests.fakes import answers, pages
from tests.fakes.answers import Answer
from tests.fakes.auth import classify_token
from tests.fakes.content import OCTETS, Blob, Image, Index, Manifest, digest_of
from tests.fakes.origin import Origin
from tests.fakes.pages import Page, Referrers
from tests.fakes.wire import Kind, Recorded

_ROUTES: Final = (
    (re.compile(r"/v2/?"), Kind.PING),
    (re.compile(r"/v2/_catalog"), Kind.CATALOG),
    (re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)"), Kind.MANIFEST),
    (re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<reference>[^/]+)"), Kind.BLOB),
    (re.compile(r"/v2/(?P<repository>.+)/tags/list"), Kind.TAGS),
    (re.compile(r"/v2/(?P<repository>.+)/referrers/(?P<reference>[^/]+)"), Kind.REFERRERS),
)
Handler = Callable[[Recorded], Answer]


class Guard(Protocol):
    """Decides whether a request may see what it asks for."""

    def refusal(self, request: Recorded) -> Answer | None: ...


@dataclass(slots=True, kw_only=True)
class Redirect:
    """Answers requests of one kind with a Location; *locate* returns None for none."""

    locate: Callable[[Recorded], str | None]
    status: int = 307
    body: bytes = b""
    media_type: str | None = None
    digest_header: bool = False
    guarded: bool = True


@dataclass(slots=True, kw_only=True)
class RegistryOptions:
    """Where registries differ from each other."""

    ranges: bool = True
    checks_accept: bool = False
    """404 for a manifest whose media type is not in Accept, as distribution and ghcr do."""
    tag_paging: bool = True
    tag_page_limit: int | None = None
    tag_n_limit: int | None = None
    """400 for a larger ``n``, as ECR does."""
    referrers_api: bool = True
    referrers_filter: bool = True
    referrers_page_limit: int | None = None
    fallback_tags: bool = False
    """Keep an index under the fallback tag for each subject, as clients do for old registries."""
    absolute_links: bool = False
    manifest_headers: dict[str, str] = field(default_factory=dict)
    """Sent with every manifest, such as the rate limit of Docker Hub."""
    missing_status: int = 404


class FakeRegistry(Origin):
    """Content goes in through methods, and comes out over HTTP.

    ``options`` may be changed at any time; ``guard`` asks for credentials; ``redirects``
    sends kinds of requests elsewhere; ``before`` answers first when it returns an answer.
    """

    def __init__(
        self,
        options: RegistryOptions | None = None,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(host=host, tls=tls)
        self.options = options or RegistryOptions()
        self.guard: Guard | None = None
        self.redirects: dict[Kind, Redirect] = {}
        self.before: Callable[[Recorded], Answer | None] | None = None
        self._mounts: dict[str, Handler] = {}
        self._blobs: dict[tuple[str, str], bytes] = {}
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._tags: dict[str, dict[str, Manifest]] = {}
        self._referrers = Referrers()

    # Content.

    def put_blob(self, repository: str, content: bytes, digest: str | None = None) -> str:
        """Serve *content* under its digest or, if one is given, a wrong one."""
        digest = digest or digest_of(content)
        self._blobs[repository, digest] = content
        return digest

    def put_manifest(
        self,
        repository: str,
        references: str | Sequence[str],
        content: bytes,
        media_type: str,
        digest: str | None = None,
    ) -> str:
        """Serve *content* under its digest and under every tag of *references*.

        A digest among *references*, wrong or of another algorithm, is one more name.
        """
        digest = digest or digest_of(content)
        manifest = Manifest(content=content, media_type=media_type, digest=digest)
        names = [references] if isinstance(references, str) else references
        self._manifests[repository, digest] = manifest
        tags = self._tags.setdefault(repository, {})
        for name in names:
            if ":" in name:
                self._manifests[repository, name] = manifest
            else:
                tags[name] = manifest
        self._referrers.learn(repository, manifest)
        if self.options.fallback_tags:
            tags.update(self._referrers.fallback_tags(repository))
        return digest

    def push(self, repository: str, pushed: Manifest, tags: Sequence[str] = ()) -> str:
        """Serve an image with its blobs, or an index with all that is in it."""
        if isinstance(pushed, Image):
            for blob in pushed.blobs:
                self.put_blob(repository, blob.content, blob.digest)
        if isinstance(pushed, Index):
            for manifest in pushed.manifests:
                self.push(repository, manifest)
        return self.put_manifest(repository, tags, pushed.content, pushed.media_type, pushed.digest)

    def push_blob(self, repository: str, blob: Blob) -> str:
        return self.put_blob(repository, blob.content, blob.digest)

    def move_tag(self, repository: str, tag: str, digest: str) -> None:
        """Let *tag* point to a manifest that is in *repository*."""
        self._tags[repository][tag] = self._manifests[repository, digest]

    def delete_tag(self, repository: str, tag: str) -> None:
        del self._tags[repository][tag]

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete the manifest and the tags that point to it."""
        del self._manifests[repository, digest]
        tags = self._tags[repository]
        self._tags[repository] = {t: m for t, m in tags.items() if m.digest != digest}
        self._referrers.forget(repository, digest)

    def delete_blob(self, repository: str, digest: str) -> None:
        del self._blobs[repository, digest]

    def delete_repository(self, repository: str) -> None:
        self._tags.pop(repository, None)
        self._blobs = {k: v for k, v in self._blobs.items() if k[0] != repository}
        self._manifests = {k: v for k, v in self._manifests.items() if k[0] != repository}

    def has(self, repository: str) -> bool:
        return repository in self._tags or any(key[0] == repository for key in self._blobs)

    def blob(self, repository: str, digest: str) -> bytes | None:
        return self._blobs.get((repository, digest))

    def mount(self, path: str, handler: Handler) -> None:
        """Let *handler* answer under *path*, as for a token service on the same host."""
        self._mounts[path] = handler

    # HTTP.

    def classify(self, request: Recorded) -> None:
        if request.path in self._mounts:
            classify_token(request)
            return
        for pattern, kind in _ROUTES:
            found = pattern.fullmatch(request.path)
            if found is not None:
                names = found.groupdict()
                request.kind = kind
                request.repository = names.get("repository")
                request.reference = unquote(names.get("reference") or "") or None
                return

    def answer(self, request: Recorded) -> Answer:
        if request.path in self._mounts:
            return self._mounts[request.path](request)
        if request.method not in {"GET", "HEAD"}:
            return answers.error(405, "UNSUPPORTED")
        redirect = self.redirects.get(request.kind)
        unguarded = redirect is not None and not redirect.guarded
        refusal = None if unguarded or self.guard is None else self.guard.refusal(request)
        early = refusal or (self.before(request) if self.before else None)
        return early or self._redirected(request, redirect) or self._content(request)

    def _content(self, request: Recorded) -> Answer:
        repository, reference = request.repository or "", request.reference or ""
        match request.kind:
            case Kind.PING:
                answer = answers.json_answer({})
            case Kind.MANIFEST:
                answer = self._manifest_answer(request, repository, reference)
            case Kind.BLOB:
                answer = self._blob_answer(repository, reference)
            case Kind.TAGS:
                answer = self._tags_answer(request, repository)
            case Kind.REFERRERS:
                answer = self._referrers_answer(request, repository, reference)
            case _:
                answer = answers.text(404, "404 page not found\n")
        answer.headers.append(("Docker-Distribution-Api-Version", "registry/2.0"))
        return answer

    def _redirected(self, request: Recorded, redirect: Redirect | None) -> Answer | None:
        location = None if redirect is None else redirect.locate(request)
        if redirect is None or location is None:
            return None
        answer = Answer(status=redirect.status, body=redirect.body)
        answer.headers.append(("Location", location))
        if redirect.media_type is not None:
            answer.headers.append(("Content-Type", redirect.media_type))
        if redirect.digest_header:
            answer.headers.append(("Docker-Content-Digest", request.reference or ""))
        return answer

    def _manifest_answer(self, request: Recorded, repository: str, reference: str) -> Answer:
        tagged = self._tags.get(repository, {}).get(reference)
        manifest = tagged or self._manifests.get((repository, reference))
        if manifest is None:
            return self._missing("MANIFEST_UNKNOWN", {"Tag": reference})
        if self.options.checks_accept and not _accepts(request, manifest.media_type):
            return self._missing("MANIFEST_UNKNOWN", "accept header does not support it")
        digest = manifest.digest if tagged else reference
        return Answer(
            headers=[
                ("Content-Type", manifest.media_type),
                ("Docker-Content-Digest", digest),
                ("ETag", f'"{digest}"'),
                *self.options.manifest_headers.items(),
            ],
            body=manifest.content,
            ranges=False,
        )

    def _blob_answer(self, repository: str, digest: str) -> Answer:
        content = self._blobs.get((repository, digest))
        if content is None:
            return self._missing("BLOB_UNKNOWN", digest)
        return Answer(
            headers=[
                ("Content-Type", OCTETS),
                ("Accept-Ranges", "bytes"),
                ("Cache-Control", "max-age=31536000"),
                ("Docker-Content-Digest", digest),
                ("ETag", f'"{digest}"'),
            ],
            body=content,
            ranges=self.options.ranges,
        )

    def _missing(self, code: str, detail: object) -> Answer:
        return answers.error(self.options.missing_status, code, detail=detail)

    def _tags_answer(self, request: Recorded, repository: str) -> Answer:
        options = self.options
        if repository not in self._tags:
            return self._missing("NAME_UNKNOWN", {"name": repository})
        names = sorted(self._tags[repository])
        asked = request.parameter("n") if options.tag_paging else None
        if asked and options.tag_n_limit is not None and int(asked) > options.tag_n_limit:
            return answers.error(400, "UNSUPPORTED", f"n is more than {options.tag_n_limit}")
        last = request.parameter("last") if options.tag_paging else None
        page = pages.tag_page(names, asked, last, options.tag_page_limit)
        answer = answers.json_answer({"name": repository, "tags": page.entries})
        return self._linked(request, answer, page)

    def _referrers_answer(self, request: Recorded, repository: str, digest: str) -> Answer:
        options = self.options
        if not options.referrers_api:
            return answers.text(404, "404 page not found\n")
        if not re.fullmatch(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]{32,}", digest):
            return answers.error(400, "DIGEST_INVALID")
        wanted = request.parameter("artifactType") if options.referrers_filter else None
        found = self._referrers.of(repository, digest, wanted)
        page = pages.referrers_page(found, request, options.referrers_page_limit)
        answer = pages.referrers_index(page.entries)
        if wanted is not None:
            answer.headers.append(("OCI-Filters-Applied", "artifactType"))
        return self._linked(request, answer, page)

    def _linked(self, request: Recorded, answer: Answer, page: Page) -> Answer:
        if page.next_query is not None:
            base = self.url if self.options.absolute_links else ""
            link = f'<{base}{request.path}?{page.next_query}>; rel="next"'
            answer.headers.append(("Link", link))
        return answer


def _accepts(request: Recorded, media_type: str) -> bool:
    lines = ",".join(request.header_lines("Accept"))
    accepted = {each.partition(";")[0].strip() for each in lines.split(",")}
    return bool(accepted & {media_type, "*/*"})
