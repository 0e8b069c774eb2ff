"""Hindsight optima."""
