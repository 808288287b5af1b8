"""Mirror: a pull-through caching mirror proxy for container registries."""

__version__ = "0.1.0"
