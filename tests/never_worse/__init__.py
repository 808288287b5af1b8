"""What real clients get while upstream is in trouble: the mirror, and docker-registry beside it."""
