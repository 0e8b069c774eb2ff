"""Forecasts judged: as forecasts, and by what routing makes of them.

`samples` gathers what a router would have been told, `scores` holds it against what came to
pass, `decision` runs the router with each predictor, `study` does all of it for one trace.
"""

from classifiers.extra import require_extra

require_extra()
