"""Benchmarks: ``python -m benchmarks NAME`` proves that both sides compute the same, then times them in one run."""
