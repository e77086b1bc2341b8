"""Benchmarks: scripts that print ratios against a peer of the same run; never timed tests."""
