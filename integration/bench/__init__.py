"""Measurements on a real vLLM server: several policies, interleaved, in one session.

- `integration.bench.preflight`: refuses what cannot work, before any server is started
- `integration.bench.server`: starts a server, and always takes all of it down
- `integration.bench.workload`, `integration.bench.client`: the same requests for every policy
- `integration.bench.steps`, `integration.bench.counters`: what each rank held at each step
- `integration.bench.statistics`: confidence intervals over rounds
- `integration.bench.session`: the interleaved session itself
- `integration.bench.sweep`, `integration.bench.calibrate`, `integration.bench.sweep_fit`,
  `integration.bench.calibrated`: what a step costs: loads, their run, the fit, its text
- `integration.bench.skew`, `integration.bench.simulated`: what the barrier costs, and how well
  the simulator foretells it
"""
