"""Tests of Mirror."""
