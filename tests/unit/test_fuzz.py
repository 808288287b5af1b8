"""Every fuzzing target, a little: its examples, and what becomes of them by cutting and mixing."""

import random

import pytest

from tests.fuzz.targets import TARGETS

ROUNDS = {"config": 25}


def changed(seed: bytes, words: list[bytes], chance: random.Random) -> bytes:
    """Return a seed with a part of it cut out, doubled, or replaced by a word of the grammar."""
    first, last = sorted(chance.randrange(len(seed) + 1) for _ in range(2))
    middle = chance.choice([b"", seed[first:last] * 2, *words, chance.randbytes(3)])
    return seed[:first] + middle + seed[last:]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    words = [word.encode() for word in target.words]
    assert target.seeds, "nothing would be tried"
    for seed in target.seeds:  # a target raises at what its reader must not do
        target.run(seed)
    for _ in range(ROUNDS.get(name, 250)):
        target.run(changed(chance.choice(target.seeds), words, chance))
