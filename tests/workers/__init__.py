"""A mirror with workers, as processes: what cannot be seen while they are tasks of one loop."""
