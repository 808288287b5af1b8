"""The node agent tells the clients of a mirror that answers, and of no other."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.clients import agent as agents
from mirror.clients.agent import NodeAgent, Told
from mirror.clients.containerd import CERTS, plan_hosts
from mirror.clients.watch import Watch
from tests.unit.clients.machines import MIRROR, wish

HUB = "etc/containerd/certs.d/docker.io/hosts.toml"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def agent(tmp_path: Path) -> NodeAgent:
    told = Told(
        "containerd", lambda _: f"{CERTS}/.mirror", lambda files: plan_hosts(wish(), files, CERTS)
    )
    return NodeAgent(tmp_path, [told])


def run(agent: NodeAgent, root: Path, looks: str, *, always: bool = False) -> str:
    """Let an agent look as often as *looks* has letters (+ or -); return what stood then."""
    stop, seen = threading.Event(), ""
    left = list(looks)

    def look() -> str | None:
        nonlocal seen
        seen += "+" if is_told(root) else "-"
        found = left.pop(0)
        if not left:
            stop.set()
        return None if found == "+" else "it is gone"

    agent.run(look, stop, every_seconds=0, always=always)
    return (seen + ("+" if is_told(root) else "-"))[1:]


def is_told(root: Path) -> bool:
    return (root / HUB).exists() and MIRROR in (root / HUB).read_text()


@pytest.mark.parametrize(
    ("looks", "stood"),
    [
        ("+", "+"),  # at its start it believes the first look
        ("-", "-"),
        ("++-+-+", "++++++"),  # one lost answer is not an outage
        ("+--+-++", "++---" + "-+"),
        ("--++", "---+"),
    ],
)
def test_two_looks_in_a_row_count(agent: NodeAgent, tmp_path: Path, looks: str, stood: str) -> None:
    assert run(agent, tmp_path, looks) == stood
    assert agent.undo()
    assert list(tmp_path.iterdir()) == []


def test_in_an_air_gap_it_is_told_whatever_was_seen(agent: NodeAgent, tmp_path: Path) -> None:
    assert run(agent, tmp_path, "---+-", always=True) == "+++++"


def test_what_another_agent_has_left_goes_when_the_mirror_is_gone(
    agent: NodeAgent, tmp_path: Path
) -> None:
    agent.settle(tell=True)
    again = NodeAgent(tmp_path, agent._clients)
    assert run(again, tmp_path, "-") == "-"
    assert list(tmp_path.iterdir()) == []


def test_what_did_not_succeed_is_tried_again(agent: NodeAgent, tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file, where a directory should be")
    agent.settle(tell=True)
    (tmp_path / "etc").unlink()
    agent.settle(tell=True)
    assert is_told(tmp_path)


def test_a_file_that_somebody_changed_is_left_to_him_and_the_others_are_not(
    agent: NodeAgent, tmp_path: Path
) -> None:
    agent.settle(tell=True)
    (tmp_path / HUB).write_text("theirs")
    agent.settle(tell=False)
    assert (tmp_path / HUB).read_text() == "theirs"
    assert not (tmp_path / HUB).parents[1].joinpath("ghcr.io").exists()
    assert agent.undo()
    assert agent.left == [f"/{HUB}"]


def test_what_vanished_is_written_again(
    agent: NodeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.settle(tell=True)
    (tmp_path / HUB).unlink()
    agent.settle(tell=True)
    assert not is_told(tmp_path)  # not every second
    monkeypatch.setattr(agents, "AGAIN_SECONDS", 0)
    agent.settle(tell=True)
    assert is_told(tmp_path)


@given(st.lists(st.booleans(), min_size=1))
def test_a_watch_never_turns_on_a_single_look(looks: list[bool]) -> None:
    watch = Watch()
    judged = [watch.judge(answers=each) for each in looks]
    assert judged[0] is looks[0]
    for number in range(1, len(looks)):
        if judged[number] is not judged[number - 1]:
            assert looks[number] is looks[number - 1] is judged[number]
