"""brsolver's routers inside vLLM's own data-parallel load balancer.

`integration.vllm.plugin.register` is the entry point that vLLM calls. Nothing here imports vLLM
before it has been asked to route.
"""
