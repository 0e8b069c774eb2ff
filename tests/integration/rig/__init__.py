"""A real vLLM on CPU, small enough for tests: environment, model, server, step log."""
