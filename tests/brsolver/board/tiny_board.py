"""A board of eight cells that takes no time."""

from __future__ import annotations

TINY = """
name = "tiny"
workers = 2
slots = 4
limit = 60
baseline = "jsq@immediate"
policies = ["jsq@immediate", "br-0@pooled"]
hardware = ["bfio"]

[traces.drawn]
file = "drawn.csv"
sha256 = "{digest}"
fetch = "https://example.org/drawn.csv"
stand_in = "preset:uniform:n=60,s_high=300,o_high=30"

[prefill.elsewhere]
mode = "none"

[prefill.on-ranks]
mode = "colocated"
budget = 256

[regimes.full]

[regimes.half]
load = 0.5
"""
UNKNOWN = "0" * 64
"""A digest that no file has."""
