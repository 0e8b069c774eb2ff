"""Routing policies to compare with, one small module each."""
