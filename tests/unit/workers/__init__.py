"""Tests of the room of the workers, in one process."""
