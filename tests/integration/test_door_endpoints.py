"""Where workers come from: files that change, names, EndpointSlices of a Kubernetes API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from door_support import until
from fake_kubernetes import FakeApi, endpoint, endpoint_slice
from small_http import http_server

from brsolver.errors import OutputError, ParameterError
from integration.doors.endpoints import Fixed, Listed, Named, Shape, address_of, read_workers
from integration.doors.kubernetes import EndpointSlices, KubernetesApi
from integration.picker import WorkerSpec


class Following:
    """A source that is followed while the block lasts."""

    def __init__(self, source, changed=None):
        self._source = source
        self.told = []
        self._changed = self.told.append if changed is None else changed

    async def __aenter__(self):
        self._task = asyncio.create_task(self._source.follow(self._changed))
        return self.told

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def addresses(workers):
    return [worker.address for worker in workers]


def test_ranks_of_a_server_are_workers():
    shape = Shape(ranks=2, slots=8, capacity=1000)
    assert shape.workers("a:1") == [
        WorkerSpec(name="a:1#0", address="a:1", rank=0, slots=8, capacity=1000),
        WorkerSpec(name="a:1#1", address="a:1", rank=1, slots=8, capacity=1000),
    ]
    with pytest.raises(ParameterError, match="ranks is 0"):
        Shape(ranks=0)


def test_list_is_told_once():
    async def scenario():
        workers = Shape().workers("a:1")
        async with Following(Fixed(workers)) as told:
            await until(lambda: told)
        assert told == [tuple(workers)]

    asyncio.run(scenario())


def test_file_is_followed_and_a_bad_one_changes_nothing(tmp_path):
    path = tmp_path / "workers"

    def write(text):
        part = tmp_path / "part"
        part.write_text(text)
        part.replace(path)

    async def scenario():
        complaints = []
        write("10.0.0.1:80\n# comment\n\n[fd00::1]:81 # second\n")
        source = Listed(path, interval_s=1e-3, complain=complaints.append)
        async with Following(source) as told:
            await until(lambda: told)
            assert addresses(told[0]) == ["10.0.0.1:80", "[fd00::1]:81"]
            write("10.0.0.1\n")
            await until(lambda: complaints)
            assert f"{path}:1: address is '10.0.0.1', must be" in complaints[0]
            path.unlink()
            write("10.0.0.2:80\n")
            await until(lambda: len(told) > 1)
            assert addresses(told[1]) == ["10.0.0.2:80"]
            assert len(complaints) in {1, 2}

    asyncio.run(scenario())


def test_workers_that_are_refused_end_no_following(tmp_path):
    path = tmp_path / "workers"
    path.write_text("10.0.0.1:80\n")

    async def scenario():
        complaints, told = [], []

        def changed(workers):
            if not told:
                told.append(None)
                raise ParameterError("they cannot be")
            told.append(workers)

        source = Listed(path, interval_s=1e-3, complain=complaints.append)
        task = asyncio.create_task(source.follow(changed))
        await until(lambda: len(told) > 1)
        assert addresses(told[1]) == ["10.0.0.1:80"]
        assert complaints == ["they cannot be"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["a:1\na:1\n", "a:99999\n", "nothing\n", "\udcff"])
def test_bad_file_is_one_line(tmp_path, text):
    path = tmp_path / "workers"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ParameterError) as error:
        read_workers(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_name_stands_for_its_addresses():
    async def scenario():
        complaints = []
        source = Named("localhost", 8000, interval_s=1e-3, complain=complaints.append)
        async with Following(source) as told:
            await until(lambda: told)
        assert set(addresses(told[0])) & {"127.0.0.1:8000", "[::1]:8000"}
        assert not complaints

    asyncio.run(scenario())


def test_name_without_address_complains_once():
    async def scenario():
        complaints = []
        source = Named("no.such.host.invalid", 1, interval_s=1e-3, complain=complaints.append)
        looks = []
        look = source.look

        async def counted():
            looks.append(1)
            return await look()

        source.look = counted
        async with Following(source) as told:
            await until(lambda: len(looks) > 2)
        assert not told
        assert len(complaints) == 1
        assert "no.such.host.invalid" in complaints[0]

    asyncio.run(scenario())


def test_addresses_of_both_families():
    assert address_of("10.0.0.1", 80) == "10.0.0.1:80"
    assert address_of("fd00::1", 80) == "[fd00::1]:80"


def following(address, tmp_path, complaints, changed=None, **more):
    token = tmp_path / "token"
    token.write_text("secret\n")
    api = KubernetesApi(url=f"http://{address}", namespace="models", token=token)
    selector = "kubernetes.io/service-name=vllm"
    source = EndpointSlices(api, selector, retry_s=1e-3, complain=complaints.append, **more)
    return Following(source, changed)


def test_endpoint_slices_are_listed_and_watched(tmp_path):
    async def scenario():
        complaints = []
        first = endpoint_slice(
            "a",
            [
                endpoint("10.0.0.1", "pod-1", ready=True),
                endpoint("10.0.0.2", "pod-2", ready=False),
                endpoint("10.0.0.3", "pod-3", ready=True, terminating=True),
                endpoint("10.0.0.4", "pod-4"),
            ],
        )
        api = FakeApi([first])
        async with http_server(api) as address, following(address, tmp_path, complaints) as told:
            await until(lambda: api.streams)
            assert [(w.name, w.address) for w in told[0]] == [
                ("pod-1", "10.0.0.1:8000"),
                ("pod-4", "10.0.0.4:8000"),
            ]
            query, authorization = api.requests[0]
            assert query["labelSelector"] == "kubernetes.io/service-name=vllm"
            assert authorization == "Bearer secret"
            await api.send("ADDED", endpoint_slice("b", [endpoint("fd00::1", "pod-6")]))
            await until(lambda: len(told) == 2)
            assert "[fd00::1]:8000" in addresses(told[1])
            await api.send("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
            await api.send("MODIFIED", endpoint_slice("a", [endpoint("10.0.0.2", "pod-2")]))
            await until(lambda: len(told) == 3)
            await api.send("DELETED", endpoint_slice("b", []))
            await until(lambda: len(told) == 4)
            assert addresses(told[3]) == ["10.0.0.2:8000"]
            api.end()
        assert not complaints

    asyncio.run(scenario())


def test_another_pod_at_the_same_address_is_told(tmp_path):
    async def scenario():
        api = FakeApi([endpoint_slice("a", [endpoint("10.0.0.1", "vllm-0", "one")])])
        async with http_server(api) as address, following(address, tmp_path, []) as told:
            await until(lambda: api.streams)
            other = endpoint_slice("a", [endpoint("10.0.0.1", "vllm-0", "two")])
            await api.send("MODIFIED", other)
            await until(lambda: len(told) == 2)
            assert [w.uid for workers in told for w in workers] == ["one", "two"]
            assert told[1][0].is_another_than(told[0][0])
            api.end()

    asyncio.run(scenario())


def both(first, second, **conditions):
    """Return slices of one service, one of each address family, of two pods."""
    pods = (("vllm-0", "one"), ("vllm-1", "two"))
    ends = (conditions, {})
    of_4 = [endpoint(first + str(n), *pod, **ends[n]) for n, pod in enumerate(pods)]
    of_6 = [endpoint(second + str(n), *pod) for n, pod in enumerate(pods)]
    return endpoint_slice("a-6", of_6), endpoint_slice("b-4", of_4)


def test_a_pod_of_two_address_families_is_one_worker(tmp_path):
    async def scenario():
        api = FakeApi(both("10.0.0.", "fd00::"))
        async with http_server(api) as address, following(address, tmp_path, []) as told:
            await until(lambda: api.streams)
            assert [(w.name, w.address) for w in told[0]] == [
                ("vllm-0", "10.0.0.0:8000"),
                ("vllm-1", "10.0.0.1:8000"),
            ]
            # One of its slices says already that it is not ready.
            _, changed = both("10.0.0.", "fd00::", ready=False)
            await api.send("MODIFIED", changed)
            await until(lambda: len(told) == 2)
            assert addresses(told[1]) == ["10.0.0.1:8000"]
            await api.send("DELETED", endpoint_slice("b-4", []))
            await until(lambda: len(told) == 3)
            assert addresses(told[2]) == ["[fd00::0]:8000", "[fd00::1]:8000"]
            api.end()

    asyncio.run(scenario())


def test_a_token_that_is_not_there_for_a_moment_ends_no_following(tmp_path):
    async def scenario():
        complaints = []
        api = FakeApi([endpoint_slice("a", [endpoint("10.0.0.1", "p")])])
        async with http_server(api) as address, following(address, tmp_path, complaints) as told:
            await until(lambda: len(api.streams) == 1)
            (tmp_path / "token").unlink()
            api.slices = {"a": endpoint_slice("a", [endpoint("10.0.0.2", "q")])}
            api.end()
            await until(lambda: complaints)
            assert len(told) == 1
            (tmp_path / "token").write_text("secret")
            await until(lambda: len(told) == 2)
            assert addresses(told[1]) == ["10.0.0.2:8000"]
            assert len(complaints) == 1
            await until(lambda: len(api.streams) == 2)
            api.end()

    asyncio.run(scenario())


def test_workers_of_slices_that_are_refused_are_told_again(tmp_path):
    async def scenario():
        complaints, told, refusals = [], [], []

        def changed(workers):
            if len(refusals) < 3:
                refusals.append(workers)
                raise OutputError("endpoints.json cannot be written (No space left on device)")
            told.append(workers)

        api = FakeApi([endpoint_slice("a", [endpoint("10.0.0.1", "p")])])
        async with (
            http_server(api) as address,
            following(address, tmp_path, complaints, changed=changed),
        ):
            await until(lambda: told and api.streams)
            api.end()
        assert addresses(told[0]) == ["10.0.0.1:8000"]
        assert len(complaints) == 1
        assert "cannot be written" in complaints[0]

    asyncio.run(scenario())


def test_ended_watch_and_gone_version_list_anew(tmp_path):
    async def scenario():
        complaints = []
        api = FakeApi([endpoint_slice("a", [endpoint("10.0.0.1", "p")])])
        async with http_server(api) as address, following(address, tmp_path, complaints) as told:
            await until(lambda: len(api.streams) == 1)
            api.slices = {"c": endpoint_slice("c", [endpoint("10.0.0.9", "q")])}
            api.version = 7
            await api.send("ERROR", {"kind": "Status", "code": 410})
            await until(lambda: len(api.streams) == 2)
            assert addresses(told[-1]) == ["10.0.0.9:8000"]
            for _, done in api.streams:
                done.set()

    asyncio.run(scenario())


def test_failing_api_is_complained_of_once_and_the_workers_stay(tmp_path):
    async def scenario():
        complaints = []
        api = FakeApi([endpoint_slice("a", [endpoint("10.0.0.1", "p")])])
        async with http_server(api) as address, following(address, tmp_path, complaints) as told:
            await until(lambda: len(api.streams) == 1)
            api.status = 403
            api.end()
            seen = len(api.requests)
            await until(lambda: len(api.requests) > seen + 3)
            assert len(complaints) == 1
            assert "403" in complaints[0]
            assert len(told) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(("port", "found"), [("metrics", 9000), (8001, 8001), ("", None)])
def test_port_by_name_or_number(tmp_path, port, found):
    ports = ({"name": "http", "port": 8000}, {"name": "metrics", "port": 9000})

    async def scenario():
        api = FakeApi([endpoint_slice("a", [endpoint("10.0.0.1", "p")], ports)])
        async with (
            http_server(api) as address,
            following(address, tmp_path, [], port=port) as told,
        ):
            await until(lambda: api.streams)
            wanted = [] if found is None else [f"10.0.0.1:{found}"]
            assert addresses(told[0]) == wanted
            api.end()

    asyncio.run(scenario())


def test_api_as_a_pod_finds_it(tmp_path, monkeypatch):
    for name, text in (("token", "t"), ("namespace", "ours\n"), ("ca.crt", "")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    api = KubernetesApi.in_pod(account=tmp_path)
    assert (api.url, api.namespace) == ("https://[fd00::1]:6443", "ours")
    with pytest.raises(ParameterError, match="must be run in a pod"):
        KubernetesApi.in_pod(account=Path(tmp_path / "nowhere"))


def test_a_file_of_tables_says_more_of_its_workers(tmp_path):
    path = tmp_path / "workers.toml"
    path.write_text(
        '[[worker]]\naddress = "10.0.0.1:8000"\nranks = 2\nslots = 8\n'
        '[[worker]]\nname = "big"\naddress = "10.0.0.2:8000"\ncapacity = 500\n'
    )
    assert read_workers(path) == [
        WorkerSpec(name="10.0.0.1:8000#0", address="10.0.0.1:8000", rank=0, slots=8),
        WorkerSpec(name="10.0.0.1:8000#1", address="10.0.0.1:8000", rank=1, slots=8),
        WorkerSpec(name="big", address="10.0.0.2:8000", capacity=500),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[worker", "cannot be read as TOML"),
        ("x = 1", r"must hold tables \[\[worker\]\]"),
        ("worker = [1]", r"must hold tables \[\[worker\]\]"),
        ('[[worker]]\nname = "a"', "worker 1"),
        ('[[worker]]\naddress = "a:1"\nrank = 3', "worker 1.*rank"),
        ('[[worker]]\naddress = "a:1"\n[[worker]]\naddress = "a:1"\nname="b"', "'a:1' is there"),
        ('[[worker]]\naddress = "a:1"\n[[worker]]\naddress = "b:1"\nname="a:1"', "name 'a:1'"),
    ],
)
def test_what_is_wrong_with_tables_is_one_line(tmp_path, text, said):
    path = tmp_path / "workers.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=said) as caught:
        read_workers(path)
    assert "\n" not in str(caught.value)
