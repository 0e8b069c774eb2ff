"""Optimisation-backed routing for data-parallel LLM decode."""
