"""Fake engines: the OpenAI API over the simulator's ranks, with its step clock and barrier.

Nothing is computed: a request gets its n-th token when ranks of the named hardware would have
had it. `engine.FakeEngine` is one in this process, ``brsolver fake-engine`` one by itself.
"""
