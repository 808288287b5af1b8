"""The mirror among real registries and real clients.

Run ``tests/e2e/install`` once as root, then ``pytest tests/e2e``.
"""
