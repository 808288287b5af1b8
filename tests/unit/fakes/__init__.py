"""The fakes are tested too, so that a red test means the mirror."""
