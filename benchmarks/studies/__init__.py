"""How imbalance, time lost, gains and the cost of decisions grow with the number of workers.

`plan` says what is run, `measure` runs one of it in a process of its own, `growth` fits exponents,
`tables` and `pictures` show what came out. ``python -m benchmarks.studies`` does all of it.
"""
