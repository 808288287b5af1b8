"""Fast tests: no network, no root."""
