"""Tests of the configuration of container clients."""
