"""Intervals, tests and sample sizes, from counts and sums: no function here sees a row."""
