"""Workers from Kubernetes' EndpointSlices, by listing and watching them over its API."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from brsolver.errors import BrsolverError, MissingExtraError, ParameterError
from integration.doors.endpoints import Shape, address_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.doors.endpoints import Changed, Complain
    from integration.picker import WorkerSpec

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has its service account's token, the cluster's certificate and its namespace."""
WATCH_S = 300
"""Seconds after which the API ends a watch, so that a broken one is noticed."""


_WRONG = (BrsolverError, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What is asked, what answers, and who is told may all fail; following goes on."""


class WatchError(BrsolverError, OSError):
    """The Kubernetes API did not answer, or not as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesApi:
    """Where the API is, and as whom it is asked.

    Attributes
    ----------
    url : str
        ``https://host:port``.
    namespace : str
        Where the workers are.
    token : Path or None
        File of the token, read for every call since it is renewed; None sends none.
    certificate : Path or None
        PEM file that the API's certificate is held to; None is the system's.
    """

    url: str
    namespace: str = "default"
    token: Path | None = None
    certificate: Path | None = None

    @classmethod
    def in_pod(cls, namespace: str | None = None, account: Path = ACCOUNT) -> KubernetesApi:
        """Return the API as a pod finds it.

        Parameters
        ----------
        namespace : str, optional
            The pod's own by default.
        account : Path
            Folder of the service account.

        Raises
        ------
        ParameterError
            If this is no pod, or it has no service account.
        """
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (account / "token").exists():
            raise ParameterError(
                "must be run in a pod with a service account; elsewhere name addresses, a file, "
                "or dns"
            )
        own = (account / "namespace").read_text(encoding="utf-8").strip()
        return cls(
            url=f"https://{address_of(host, int(port))}",
            namespace=namespace or own,
            token=account / "token",
            certificate=account / "ca.crt",
        )


class EndpointSlices:
    """The ready endpoints of a service, or of all slices that a selector names.

    A pod is one worker, also where a slice of each address family has it: by its IPv4 address then.
    It is ready once all of them say so.

    Parameters
    ----------
    api : KubernetesApi
    selector : str
        Label selector of the slices: ``kubernetes.io/service-name=NAME``.
    port : str or int
        Name of the slices' port, or its number; empty is the only one.
    shape : Shape, optional
    retry_s : float
        Seconds before the API is asked again after a failure.
    complain : callable
        Given one line when the API begins to fail.
    """

    def __init__(
        self,
        api: KubernetesApi,
        selector: str,
        *,
        port: str | int = "",
        shape: Shape | None = None,
        retry_s: float = 2.0,
        complain: Complain,
    ) -> None:
        self._api = api
        self._selector = selector
        self._port = port
        self._shape = Shape() if shape is None else shape
        self._retry_s = retry_s
        self._complain = complain
        self._slices: dict[str, Any] = {}

    async def follow(self, changed: Changed) -> None:
        """List, watch, and list anew when the watch ends; until cancelled."""
        httpx = _httpx()
        verify = _context(self._api.certificate)
        tell = _Teller(changed)
        failed = False
        async with httpx.AsyncClient(base_url=self._api.url, verify=verify) as client:
            while True:
                try:
                    version = await self._list(client)
                    tell(self._workers())
                    failed = False
                    await self._watch(client, version, tell)
                except (httpx.HTTPError, *_WRONG) as error:
                    if not failed:
                        self._complain(f"Kubernetes API {self._api.url}: {error!r}")
                    failed = True
                    await asyncio.sleep(self._retry_s)

    def _request(self) -> dict[str, Any]:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._api.namespace}/endpointslices"
        headers = {"accept": "application/json"}
        if self._api.token is not None:
            token = self._api.token.read_text(encoding="utf-8").strip()
            headers["authorization"] = f"Bearer {token}"
        return {"url": path, "headers": headers}

    async def _list(self, client: Any) -> str:
        """Read all slices; return the version that a watch goes on from."""
        parameters = {"labelSelector": self._selector}
        response = await client.get(params=parameters, timeout=10.0, **self._request())
        if response.status_code != 200:
            raise WatchError(f"listing endpoint slices answers {response.status_code}")
        found = response.json()
        self._slices = {item["metadata"]["name"]: item for item in found.get("items") or ()}
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, client: Any, version: str, tell: _Teller) -> None:
        parameters = {
            "labelSelector": self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S),
        }
        asked = self._request()
        timeout = WATCH_S + 30.0
        async with client.stream("GET", params=parameters, timeout=timeout, **asked) as response:
            if response.status_code != 200:
                raise WatchError(f"watching endpoint slices answers {response.status_code}")
            async for line in response.aiter_lines():
                if line and not self._take(json.loads(line)):
                    return
                tell(self._workers())

    def _take(self, event: dict[str, Any]) -> bool:
        """Take an event in; False if slices must be listed anew, as after 410 Gone."""
        kind = event["type"]
        if kind == "ERROR":
            return False
        name = event["object"]["metadata"].get("name", "")
        if kind == "DELETED":
            self._slices.pop(name, None)
        elif kind in {"ADDED", "MODIFIED"}:
            self._slices[name] = event["object"]
        return True

    def _workers(self) -> tuple[WorkerSpec, ...]:
        there = [each for item in self._slices.values() for each in _endpoints(item, self._port)]
        # Slices change one after the other.
        away = {each.pod.uid for each in there if not each.ready} - {None}
        there.sort(key=lambda each: (":" in each.host, each.address))
        found: dict[str, _Endpoint] = {}
        for each in there:
            if each.ready and each.pod.uid not in away:
                found.setdefault(each.pod.uid or each.address, each)
        pods = {each.address: each.pod for each in found.values()}
        return tuple(
            worker
            for address in sorted(pods)
            for worker in self._shape.workers(address, *pods[address])
        )


class _Teller:
    """Tells workers that differ from those told last."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._told: tuple[WorkerSpec, ...] | None = None

    def __call__(self, workers: tuple[WorkerSpec, ...]) -> None:
        if workers != self._told:
            # Who is told may refuse them: then they are told again.
            self._changed(workers)
            self._told = workers


class _Pod(NamedTuple):
    name: str
    uid: str | None


class _Endpoint(NamedTuple):
    host: str
    address: str
    pod: _Pod
    ready: bool


def _endpoints(item: dict[str, Any], wanted: str | int) -> Iterator[_Endpoint]:
    """Yield a slice's endpoints; one is ready that is not about to go."""
    port = _port(item, wanted)
    if port is None:
        return
    for endpoint in item.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        # A condition that is left out counts as ready, says the API.
        ready = conditions.get("ready") is not False and not conditions.get("terminating")
        target = endpoint.get("targetRef") or {}
        pod = _Pod(target.get("name", ""), target.get("uid"))
        for host in (endpoint.get("addresses") or ())[:1]:
            yield _Endpoint(host, address_of(host, port), pod, ready)


def _port(item: dict[str, Any], wanted: str | int) -> int | None:
    ports: list[dict[str, Any]] = item.get("ports") or []
    for port in ports:
        if wanted in {port.get("name"), port.get("port")}:
            return int(port["port"])
    if isinstance(wanted, int):
        return wanted  # a pod's port need not be among the service's
    return int(ports[0]["port"]) if len(ports) == 1 and not wanted else None


def _context(certificate: Path | None) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=certificate)
    except (OSError, ssl.SSLError) as error:
        raise ParameterError(f"certificate {certificate} cannot be used: {error}") from error


def _httpx() -> Any:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise MissingExtraError.for_extra("httpx", "proxy") from error
