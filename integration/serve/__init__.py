"""``brsolver serve`` and ``brsolver picker``: the parts put together, run and watched.

``run`` is the supervisor: it starts Envoy and, in a process of its own, the picker (``child``),
whose parts ``wiring`` puts together. ``watchdog`` ends a picker that has frozen and starts another;
``watch`` asks the engines how they are. ``traffic`` sends requests and checks every answer.
"""
