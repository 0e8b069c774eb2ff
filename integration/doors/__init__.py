"""Doors of the picker: where a proxy asks for a worker, and tells what became of requests.

Each door turns a protocol into calls of `integration.picker.Pump` and back; none decides. `authz`
is Envoy's ext_authz over HTTP, `ext_proc` the endpoint-picker protocol of the Gateway API
Inference Extension, `access_log` Envoy's gRPC access log. `endpoints` finds workers, `poller`
reads their metrics, `tiers` has prompts computed, by calls of `prefill_calls`.
"""
