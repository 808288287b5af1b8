"""Registries, token servers and CDNs that run on loopback and misbehave when told."""
