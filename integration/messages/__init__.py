"""The protobuf messages and gRPC services that Envoy and endpoint pickers speak, as few as needed.

- `integration.messages.accesslog`: Envoy's access log.
- `integration.messages.ext_proc`: Envoy's external processing.
- `integration.messages.health`: gRPC's health checks.
- `integration.messages.services`: handlers and calls for all of them.

The packages that ship these messages ready-made cannot stand beside Envoy's own Python package,
since both have a module of the same name. So the descriptors are made here, from tables, and a
test holds them to the published ones in another environment. Needs protobuf, and
`integration.messages.services` grpcio: extra ``proxy``.
"""
