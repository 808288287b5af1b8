"""The mirror and Debian's docker-registry side by side, in one run on one machine.

``make bench``, or ``python -m tests.bench --help``. Not a part of the tests and not run in CI:
what it prints depends on the machine and on what else runs there, so read the ratios.
"""
