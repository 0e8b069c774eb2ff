"""EndpointSlices, and an API that lists and watches them as Kubernetes does."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web


def endpoint(address, name, uid=None, **conditions):
    return {
        "addresses": [address],
        "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": name, **({} if uid is None else {"uid": uid})},
    }


def endpoint_slice(name, endpoints, ports=({"name": "http", "port": 8000},)):
    return {"metadata": {"name": name}, "endpoints": endpoints, "ports": list(ports)}


class FakeApi:
    """Speaks list and watch as Kubernetes does, of what the test puts into it."""

    def __init__(self, slices):
        self.slices = {item["metadata"]["name"]: item for item in slices}
        self.version = 1
        self.requests = []
        self.streams = []
        self.status = 200

    async def __call__(self, request):
        self.requests.append((dict(request.query), request.headers.get("authorization")))
        assert request.path == "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices"
        if self.status != 200:
            return web.json_response({"kind": "Status"}, status=self.status)
        if "watch" not in request.query:
            listed = {
                "kind": "EndpointSliceList",
                "metadata": {"resourceVersion": str(self.version)},
                "items": list(self.slices.values()),
            }
            return web.json_response(listed)
        assert request.query["resourceVersion"] == str(self.version)
        response = web.StreamResponse()
        await response.prepare(request)
        done = asyncio.Event()
        self.streams.append((response, done))
        await done.wait()
        return response

    async def send(self, kind, item):
        response, _ = self.streams[-1]
        await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def end(self):
        self.streams[-1][1].set()
