"""``mirror doctor``: what can be looked at, each in a small check, and how it is told."""
