"""Small files are whole at any moment, whoever writes them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mirror.store.layout import replace_file


def test_many_may_write_one_fact_at_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "fact"
    contents = [bytes([number]) * 4096 for number in range(64)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: replace_file(target, content), contents))

    assert target.read_bytes() in contents
    assert list(target.parent.iterdir()) == [target]
