"""One target under atheris: ``python -m tests.fuzz.one NAME [options of libFuzzer]``."""

import sys

import atheris

with atheris.instrument_imports(include=["mirror"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()
