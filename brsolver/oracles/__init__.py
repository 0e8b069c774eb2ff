"""Exact oracles: solver seam, step oracle, hindsight optima and certified bounds."""
