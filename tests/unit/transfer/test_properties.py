"""Whatever upstream does, a reader gets all of it or an error, and never a wrong whole."""

import hashlib
import itertools
import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.domain.errors import ContentMismatchError, MirrorError
from mirror.domain.names import Digest
from mirror.domain.ranges import Span
from tests.unit.transfer.scripted import Answer, Rig, Scripted, rig_of

_NUMBERS = itertools.count()
_LENGTHS = st.one_of(st.integers(1, 300), st.integers(65_530, 65_540), st.integers(66_000, 400_000))
_QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _content(length: int) -> bytes:
    """Return bytes that no other example has: what is stored already would not be fetched."""
    number = next(_NUMBERS)
    return random.Random(number).randbytes(length) + b"%d" % number


def _is_clean(rig: Rig) -> bool:
    """Tell whether all is accounted for; what waits to go on is removed for the next example."""
    space, partials = rig.store.space, rig.store.partials
    waiting = [name for name in rig.partials() if not name.endswith(".json")]
    lengths = [(rig.directory / "partial" / name).stat().st_size for name in waiting]
    is_counted = partials.idle_bytes == sum(lengths)
    partials.drop(1 << 60)
    return is_counted and not rig.partials() and not space.reserved_bytes | space.written_bytes


def test_every_reader_gets_all_of_it_or_an_error_and_never_a_wrong_whole(tmp_path: Path) -> None:
    with rig_of(tmp_path) as (runner, rig):

        @given(
            length=_LENGTHS,
            chunk=st.integers(1, 100_000),
            announced_error=st.sampled_from([0, 0, 1, -1]),
            tells=st.booleans(),
            flips=st.sampled_from([None, None, 0, -1, 70_000]),
            readers=st.integers(1, 3),
            late=st.integers(0, 2),
        )
        @_QUICK
        def check(
            length: int,
            chunk: int,
            announced_error: int,
            tells: bool,  # noqa: FBT001 -- hypothesis passes it by name
            flips: int | None,
            readers: int,
            late: int,
        ) -> None:
            content = _content(length)
            digest = Digest.of(content)
            announced = max(0, len(content) + announced_error)
            answer = Answer(
                chunk_bytes=max(chunk, length // 50),
                announced=announced,
                tells_length=tells,
                flips=flips,
            )
            scripted = Scripted(content, [answer])
            got = runner.run(
                rig.fill(scripted, digest, readers=[None] * readers, late=[None] * late)
            )
            is_right = flips is None and (not tells or announced == len(content))
            if is_right:
                assert got == [content] * (readers + late)
            else:
                assert all(isinstance(each, MirrorError) for each in got)
            assert rig.store._layout.blob(digest).exists() == is_right
            assert _is_clean(rig)

        check()


_BREAKS = st.lists(st.tuples(st.integers(0, 400_000), st.booleans()), min_size=1, max_size=4)


def test_broken_bodies_are_put_together_and_never_mixed(tmp_path: Path) -> None:
    with rig_of(tmp_path) as (runner, rig):

        @given(
            length=st.integers(66_000, 400_000),
            breaks=_BREAKS,
            tells=st.booleans(),
            other=st.sampled_from([None, None, 5, 399_000]),
            start=st.integers(0, 65_999),
        )
        @_QUICK
        def check(
            length: int,
            breaks: list[tuple[int, bool]],
            tells: bool,  # noqa: FBT001 -- hypothesis passes it by name
            other: int | None,
            start: int,
        ) -> None:
            content = _content(length)
            digest = Digest.of(content)
            answers = [
                Answer(upto=at, breaks=True, ignores_range=ignores, tells_length=tells)
                for at, ignores in breaks
            ]
            # The last one sends the rest, or all of it, perhaps of something else.
            last = Answer(ignores_range=breaks[0][1], flips=other, tells_length=tells)
            span = Span(start, len(content)) if tells else None
            scripted = Scripted(content, [*answers, last])
            got = runner.run(rig.fill(scripted, digest, readers=[None], late=[span]))
            for each, whole in zip(
                got, (content, content[start:] if span else content), strict=True
            ):
                assert isinstance(each, MirrorError) or each == whole
            assert rig.store._layout.blob(digest).exists() == (got[0] == content)
            if rig.store._layout.blob(digest).exists():
                stored = rig.store._layout.blob(digest).read_bytes()
                assert hashlib.sha256(stored).hexdigest() == digest.hex
            assert _is_clean(rig)

        check()


def test_a_line_that_gains_bytes_each_time_is_followed_to_the_end(tmp_path: Path) -> None:
    content = _content(300_000)
    with rig_of(tmp_path) as (runner, rig):
        answers = [Answer(upto=at, breaks=True) for at in range(20_000, 300_000, 20_000)]
        scripted = Scripted(content, [*answers, Answer()])
        got = runner.run(rig.fill(scripted, Digest.of(content)))

        assert got == [content]
        assert scripted.asked == [0, *range(20_000, 300_000, 20_000)]


def test_a_line_that_breaks_behind_the_last_byte_has_delivered(tmp_path: Path) -> None:
    for tells in (True, False):
        content = _content(100_000)
        with rig_of(tmp_path / str(tells)) as (runner, rig):
            scripted = Scripted(content, [Answer(breaks=True, tells_length=tells)])
            got = runner.run(rig.fill(scripted, Digest.of(content)))

            assert got == [content]
            assert scripted.asked == [0]


def test_another_length_on_resumption_is_a_failure(tmp_path: Path) -> None:
    content = _content(200_000)
    with rig_of(tmp_path) as (runner, rig):
        cut = Answer(upto=100_000, breaks=True)
        scripted = Scripted(content, [cut, Answer(announced=len(content) + 1)])
        (got,) = runner.run(rig.fill(scripted, Digest.of(content)))

        assert isinstance(got, ContentMismatchError)
        assert "another length" in str(got)


def test_what_was_read_before_is_compared_where_ranges_are_ignored(tmp_path: Path) -> None:
    content = _content(200_000)
    with rig_of(tmp_path) as (runner, rig):
        cut = Answer(upto=100_000, breaks=True)
        changed = Answer(ignores_range=True, flips=10)
        (got,) = runner.run(rig.fill(Scripted(content, [cut, changed]), Digest.of(content)))

        assert isinstance(got, ContentMismatchError)
        assert "has changed" in str(got)


def test_a_length_that_is_told_late_counts(tmp_path: Path) -> None:
    content = _content(200_000)
    with rig_of(tmp_path) as (runner, rig):
        cut = Answer(upto=100_000, breaks=True, tells_length=False)
        got = runner.run(rig.fill(Scripted(content, [cut, Answer()]), Digest.of(content)))

        assert got == [content]


def test_the_manifests_word_is_the_length_where_upstream_does_not_tell(tmp_path: Path) -> None:
    with rig_of(tmp_path) as (runner, rig):
        for error in (0, 1, -1):
            content = _content(100_000)
            scripted = Scripted(content, [Answer(tells_length=False)])
            expected = len(content) + error
            (got,) = runner.run(rig.fill(scripted, Digest.of(content), expected=expected))

            assert (got == content) == (error == 0)


def test_bytes_behind_the_announced_end_are_not_taken(tmp_path: Path) -> None:
    content = _content(100_000)
    with rig_of(tmp_path) as (runner, rig):
        scripted = Scripted(content, [Answer(surplus=b"x" * 100_000)])
        got = runner.run(rig.fill(scripted, Digest.of(content)))

        assert got == [content]
        assert rig.store._layout.blob(Digest.of(content)).read_bytes() == content


def test_sha512_is_checked_as_well(tmp_path: Path) -> None:
    content = _content(100_000)
    digest = Digest.of(content, "sha512")
    with rig_of(tmp_path) as (runner, rig):
        (wrong,) = runner.run(rig.fill(Scripted(content, [Answer(flips=99_999)]), digest))
        (right,) = runner.run(rig.fill(Scripted(content, [Answer()]), digest))

        assert isinstance(wrong, ContentMismatchError)
        assert right == content


def test_an_object_without_bytes(tmp_path: Path) -> None:
    with rig_of(tmp_path) as (runner, rig):
        got = runner.run(rig.fill(Scripted(b"", [Answer()]), Digest.of(b""), readers=[None, None]))
        empty = runner.run(rig.fill(Scripted(b"", [Answer()]), Digest.of(b"not empty")))

        assert got == [b"", b""]
        assert isinstance(empty[0], ContentMismatchError)  # before any head was sent
