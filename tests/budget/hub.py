"""A registry that counts pulls as Docker Hub does, by a clock that can be turned."""

from collections import Counter, deque

from tests.fakes import answers
from tests.fakes.answers import Answer
from tests.fakes.clock import FakeClock
from tests.fakes.content import Index, image, index
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Kind, Recorded

REPOSITORY = "library/app"
WINDOW_SECONDS = 21600


class Hub(FakeRegistry):
    """So many GETs of manifests in six hours; HEAD is free."""

    def __init__(self, clock: FakeClock, limit: int = 100) -> None:
        super().__init__()
        self.clock = clock
        self.limit = limit
        self.counted: Counter[str] = Counter()
        """Requests for manifests by method, and those that were refused."""
        self.needed: set[str] = set()
        """Digests that somebody has asked for: index and image of a platform."""
        self._pulls: deque[float] = deque()
        self._versions: Counter[int] = Counter()
        self.before = self._counted

    def move(self, tag: int) -> None:
        """Let a tag mean something new."""
        self._versions[tag] += 1
        number = 1000 * self._versions[tag] + tag
        images = [image(2 * number), image(2 * number + 1, architecture="arm64")]
        self.push(REPOSITORY, index(images), [f"t{tag}"])
        self.current = getattr(self, "current", {}) | {tag: index(images)}

    def meaning(self, tag: int) -> Index:
        """Return what a tag means now."""
        found: Index = self.current[tag]
        return found

    def exhaust(self) -> None:
        """Leave nothing of the budget."""
        self._pulls.extend([self.clock()] * self.limit)

    def _left(self) -> int:
        while self._pulls and self._pulls[0] <= self.clock() - WINDOW_SECONDS:
            self._pulls.popleft()
        return max(0, self.limit - len(self._pulls))

    def _counted(self, request: Recorded) -> Answer | None:
        if request.kind is not Kind.MANIFEST:
            return None
        self.counted[request.method] += 1
        if request.method != "GET":
            return None
        if self._left():
            self._pulls.append(self.clock())
            return None
        self.counted["refused"] += 1
        return answers.error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")

    def answer(self, request: Recorded) -> Answer:
        answer = super().answer(request)
        if request.kind is Kind.MANIFEST:
            window = f";w={WINDOW_SECONDS}"
            answer.headers += [
                ("ratelimit-limit", f"{self.limit}{window}"),
                ("ratelimit-remaining", f"{self._left()}{window}"),
                ("docker-ratelimit-source", "203.0.113.7"),
            ]
        self.requests.clear()  # a day of them would fill the memory
        return answer
