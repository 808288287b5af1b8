"""The official conformance suites of the OCI Distribution Specification, run by ``run``."""
