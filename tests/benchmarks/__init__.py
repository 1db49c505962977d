"""Benchmarks: what the stages cost, against the least there is to do."""
