"""Write ``docs/reliability.md`` from what the faults do and from the last crash run.

python -m tests.crash; python -m tests.tools.reliability_reference > docs/reliability.md
"""

import json
import sys
from pathlib import Path
from typing import Final

from mirror.observe import logs
from tests import matrix
from tests.crash.report import PATH

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reliability.md"
HEAD: Final = """\
# What a pull survives

<!-- Written by `python -m tests.tools.reliability_reference`: do not edit. -->

A download from upstream belongs to nobody: it goes on when the client that began it has left,
after a restart or a `kill -9` of the mirror from the bytes on disk, at the next endpoint of the
upstream when one sends wrong content or gets nowhere, and without the disk when that is full or
broken: then each client goes on from where it is with a request of its own. The last 64 KiB are
held back until the digest is right, so nobody has ever had the whole of a wrong object. What
cannot be delivered ends by FIN before its announced length, which clients take for a broken line
and try again.

It does not survive: an upstream that is gone for longer than some five tries (the bytes are kept
for `cache.keep_partial` and the next request goes on from there), and content that is wrong at
all endpoints.

## Faults

Each fault happens once, or always where no retry can help (`flipped bit`, `other content`, ...).
The object has 1 MiB; upstream is one endpoint. "Nobody left": the only client leaves at once, and
the object is kept or not. Of 32 readers, the one that fared worst counts. Fetched twice is by the
bytes that the mirror received; what a reset threw away in a socket buffer does not count. A
fault before the head is told to the client at once, so that it can go elsewhere.

"""
TAIL: Final = """\

The same with real clients: `tests/e2e/test_cut_upstream.py` has containerd, Docker and skopeo pull
an image of 500 MB while the line to the upstream is cut every 20 MB. All are complete, and the
mirror receives at most 1.02 times the image.

## Kills

`make crash` has clients pull, pin, move tags and fill the cache beyond its bound, and kills the
mirror with SIGKILL at random moments. After each start: every object that was committed is there
or was evicted, every byte is right, the disk holds no more than `cache.max_size`, and no file is
without a row of the index nor a row without a file.

"""
REPRODUCE: Final = """\

## Do it yourself

```
make crash          # KILLS=300 SEED=1
make soak           # SOAK=1h: mixed load with faults; fails if memory or descriptors grow
make reliability    # this page
```
"""


def page(faults: str, kills: str) -> str:
    """Return the page."""
    return HEAD + faults + "\n" + TAIL + kills + REPRODUCE


def kills_table() -> str:
    """Return the figures of the last crash run as a table."""
    figures = json.loads(PATH.read_text(encoding="utf-8"))["figures"]
    lines = [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join(["| Figure | Last run |", "| --- | --- |", *lines]) + "\n"


if __name__ == "__main__":
    logs.configure("json", "error")
    sys.stdout.write(page(matrix.table(matrix.run()), kills_table()))
