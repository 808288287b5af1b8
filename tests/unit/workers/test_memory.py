"""What a worker hands out without asking."""

from mirror.observe.metrics import Result
from mirror.service.served import Served
from mirror.workers.memory import Memory
from tests.fakes.clock import FakeClock

HIT = Served(Result.HIT)


def test_an_answer_is_good_for_its_time_which_runs() -> None:
    clock = FakeClock(100.0)
    memory: Memory[str] = Memory(1000, clock)
    memory.put("a", "A", Served(Result.HIT, ttl_seconds=10), 2, 1)
    clock.advance(1.5)
    assert memory.get("a") == ("A", Served(Result.HIT, ttl_seconds=8.5))
    clock.advance(0.5)
    assert memory.get("a") is None
    memory.put("a", "A", HIT, 0, 1)
    assert memory.get("a") is None


def test_the_least_recently_used_leave() -> None:
    memory: Memory[str] = Memory(25, FakeClock(0.0))
    memory.put("a", "A", HIT, 2, 10)
    memory.put("b", "B", HIT, 2, 10)
    assert memory.get("a") is not None
    memory.put("c", "C", HIT, 2, 10)
    memory.put("d", "D", HIT, 2, 26)
    assert [memory.get(key) is not None for key in "abcd"] == [True, False, True, False]


def test_what_is_forgotten_is_gone_and_takes_no_room() -> None:
    memory: Memory[str] = Memory(20, FakeClock(0.0))
    for key in "ab":
        memory.put(key, key, HIT, 2, 10)
    memory.forget("a")
    assert (memory.get("a"), memory.get("b")) == (None, ("b", HIT))
    memory.forget()
    assert memory.get("b") is None
    memory.put("c", "C", HIT, 2, 20)
    assert memory.get("c") is not None
