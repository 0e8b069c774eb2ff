"""``brsolver load``: a trace is replayed against any OpenAI endpoint, and what came is measured.

- `integration.load.vocabulary`, `integration.load.prompts`, `integration.load.bodies`: what is
  sent, from a trace's lengths and prefix hashes
- `integration.load.schedule`, `integration.load.driving`: when it is sent
- `integration.load.answers`, `integration.load.http`: one request and its stream; the bench of
  ``brsolver vllm`` and the demonstration of ``brsolver serve`` send by these, too
- `integration.load.target`: what an endpoint is asked beforehand
- `integration.load.replies`, `integration.load.figures`, `integration.load.showing`,
  `integration.load.saving`: what came of it
"""
