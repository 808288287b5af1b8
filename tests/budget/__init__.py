"""A day of pulls by many nodes against a registry with Docker Hub's pull limit."""
