"""Tools that write documents of the repository."""
