"""A board of routers: every policy on the same traces, regimes and hardware, with its gap."""
