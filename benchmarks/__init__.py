"""Ratios of cost between trioserve and its peers, measured on one machine in one run.

`python -m benchmarks` starts each server on loopback, loads it, and prints a table of ratios against the
targets. Nothing here is imported by the package, and nothing here needs it: trioserve is one more command
line among the others. docs/benchmarks.md says how to read the result.
"""
