"""Predictors of when requests end."""
