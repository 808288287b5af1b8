"""Errors cross as values."""

import pytest

from mirror.domain import errors
from mirror.domain.errors import MirrorError, OverloadedError, RateLimitedError
from mirror.store.space import NoSpaceError
from mirror.workers import messages

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MirrorError)
]


def crossed(error: Exception) -> Exception:
    sent = messages.encode(messages.failure_of(7, error))
    failure = messages.read_to_worker(sent)
    assert isinstance(failure, messages.Failure)
    assert failure.number == 7
    return messages.error_of(failure)


def example(kind: type[MirrorError]) -> MirrorError:
    return kind(*(f"a {name}" for name in getattr(kind, "__dataclass_fields__", {})))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_the_same_on_the_other_side(kind: type[MirrorError]) -> None:
    error = example(kind)
    got = crossed(error)
    assert type(got) is kind
    assert str(got) == str(error)
    assert vars(got) == vars(error)


def test_a_number_stays_a_number() -> None:
    got = crossed(RateLimitedError("docker.io", 17))
    assert isinstance(got, RateLimitedError)
    assert got.retry_after_seconds == 17


def test_an_error_of_another_room_is_what_it_is_to_a_client() -> None:
    got = crossed(NoSpaceError("no room"))
    assert type(got) is OverloadedError
    assert str(got) == str(NoSpaceError("no room"))


def test_a_bug_says_no_more_than_its_class() -> None:
    got = crossed(ZeroDivisionError("with a secret"))
    assert not isinstance(got, MirrorError)
    assert "secret" not in str(got)
