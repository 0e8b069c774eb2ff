from __future__ import annotations

import asyncio
import base64
import json
import re

import pytest
from admin_serving import TOKEN, serving
from admin_traffic import play, traffic
from door_support import house, to

from brsolver.errors import ParameterError
from integration.admin.admin import Admin
from integration.admin.params import AdminParams, ShadowParams
from integration.doors.poller import PollerParams
from integration.doors.prefill_figures import PrefillTier, PrefillWorker
from integration.picker import PickerParams
from integration.serve.prefilling import Prefilling
from integration.settings import Tiers

JSON = {"Content-Type": "application/json"}
LIMIT_S = 60


def run(scenario):
    async def limited():
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(limited())


def test_all_pages_are_served_with_strict_headers():
    async def scenario():
        async with serving() as here:
            for path, kind in (
                ("/", "text/html"),
                ("/page.css", "text/css"),
                ("/page.js", "text/javascript"),
                ("/metrics", "text/plain"),
                ("/dashboard.json", "application/json"),
                ("/healthz", "application/json"),
                ("/admin/audit", "application/json"),
                ("/admin/workers", "application/json"),
            ):
                async with here.client.get(here.url + path) as answer:
                    assert (answer.status, answer.content_type) == (200, kind)
                    policy = answer.headers["Content-Security-Policy"]
                    assert "unsafe" not in policy
                    assert "default-src 'none'" in policy
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"

    run(scenario)


def test_the_page_asks_for_nothing_from_elsewhere_and_has_nothing_inline():
    async def scenario():
        async with serving() as here:
            _, page = await here.get("/")
            _, style = await here.get("/page.css")
            assert not re.search(r"https?://|//\w", page + style)
            assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*src)", page)
            assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) == {
                *("/icon.svg", "/page.css", "/page.js", "/metrics"),
                *("/admin/audit", "/admin/workers", "/dashboard.json"),
            }

    run(scenario)


def test_the_audit_says_whether_the_books_are_in_order():
    async def scenario():
        async with serving() as here:
            play(here.replay, traffic(5, per_second=50.0))
            status, audit = await here.ask("GET", "/admin/audit")
            assert (status, audit["balanced"], audit["reserved"]) == (200, True, 0)
            assert audit["ended"] == {"finished": 5}
            assert len(audit["workers"]) == 4

    run(scenario)


def test_a_prefill_tier_is_in_the_audit_and_its_workers_are_listed():
    worker = PrefillWorker(
        name="p0", address="10.0.0.9:1", state="down", prompts=1, tokens=9, kept=2,
        kv_usage=0.5, capacity=None,
    )  # fmt: skip
    tier = PrefillTier(
        waiting=2, under_way=1, prompts={"refused": 4}, calls={"p0": {"failed": 3}},
        workers=(worker,),
    )  # fmt: skip

    async def scenario():
        async with serving(prefill=lambda: tier) as here:
            _, audit = await here.ask("GET", "/admin/audit")
            assert (audit["prefill"]["waiting"], audit["prefill"]["under_way"]) == (2, 1)
            assert audit["prefill"]["calls"] == {"p0": {"failed": 3}}
            _, listed = await here.ask("GET", "/admin/workers")
            assert len(listed["workers"]) == 4
            [told] = listed["prefill"]
            assert (told["name"], told["state"], told["kv_usage"]) == ("p0", "down", 0.5)
            _, text = await here.get("/metrics")
            assert 'brsolver_prefill_prompts_total{result="refused"} 4.0' in text
        async with serving() as here:
            for path in ("/admin/audit", "/admin/workers"):
                assert "prefill" not in (await here.ask("GET", path))[1]

    run(scenario)


def tier():
    """Return a prefill tier of one worker at which nobody looks."""
    table = Tiers(prefill=("127.0.0.1:1",), decode=("127.0.0.1:2",))
    return Prefilling(
        table, house(to(1)).reception, PollerParams(), router=PickerParams(), fault=print
    )


def test_prefill_workers_are_added_and_drained():
    async def scenario():
        async with serving(prefill_fleet=tier()) as here:
            added = {"name": "new", "address": "127.0.0.1:3", "capacity": 4}
            assert await here.ask("POST", "/admin/prefill", json=added) == (
                201,
                {"status": "added", "name": "new"},
            )
            _, told = await here.ask("GET", "/admin/prefill")
            new = told["workers"][-1]
            assert (new["name"], new["capacity"], new["state"]) == ("new", 4, "up")
            assert await here.ask("DELETE", "/admin/prefill/new", headers=JSON) == (
                202,
                {"status": "draining"},
            )
            _, told = await here.ask("GET", "/admin/prefill")
            assert [each["name"] for each in told["workers"]] == ["127.0.0.1:1"]

    run(scenario)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is no JSON"),
        (b"{}", "name"),
        (b'{"name": "x", "address": "nowhere"}', "address is 'nowhere', must be HOST:PORT"),
        (b'{"name": "x", "address": "h:1", "rank": 0}', "rank"),
        (b'{"name": "x", "address": "h:1", "capacity": 0}', "capacity is 0, must be at least 1"),
        (b'{"name": "x", "address": "127.0.0.1:1"}', "where there is a worker already"),
        (b'{"name": "127.0.0.1:1", "address": "127.0.0.1:9"}', "must differ"),
    ],
)
def test_a_bad_prefill_worker_is_refused_in_one_line(body, said):
    async def scenario():
        async with serving(prefill_fleet=tier()) as here:
            status, told = await here.ask("POST", "/admin/prefill", data=body, headers=JSON)
            assert status in {404, 422}
            assert said in told["error"]
            assert "\n" not in told["error"]
            for name, answer in (("nobody", 404), ("n" * 300, 422)):
                assert (await here.ask("DELETE", f"/admin/prefill/{name}", headers=JSON))[
                    0
                ] == answer
            _, told = await here.ask("GET", "/admin/prefill")
            assert [each["name"] for each in told["workers"]] == ["127.0.0.1:1"]

    run(scenario)


def test_without_a_prefill_tier_its_workers_are_not_there():
    async def scenario():
        async with serving() as here:
            added = {"name": "new", "address": "127.0.0.1:3"}
            for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/new")):
                answer = await here.ask(method, f"/admin/prefill{path}", json=added)
                assert answer == (
                    404,
                    {"error": "there are no prefill workers, must be named in [tiers] first"},
                )

    run(scenario)


def test_workers_are_added_and_drained():
    async def scenario():
        async with serving() as here:
            added = {"name": "new", "address": "10.1.1.1:80", "slots": 4}
            assert await here.ask("POST", "/admin/workers", json=added) == (
                201,
                {"status": "added", "name": "new"},
            )
            _, told = await here.ask("GET", "/admin/workers")
            new = told["workers"][-1]
            assert (new["name"], new["slots"], new["state"]) == ("new", 4, "up")
            status, _ = await here.ask("DELETE", "/admin/workers/rank%200", headers=JSON)
            assert status == 202
            _, told = await here.ask("GET", "/admin/workers")
            assert told["workers"][0]["state"] == "gone"
            assert [each.name for each in here.admin.window.workers][-1] == "new"

    run(scenario)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is no JSON"),
        (b"[" * 60_000, "the body is no JSON"),
        (b"[]", "the body is a list"),
        (b"{}", "name"),
        (b'{"name": "x", "address": "nowhere"}', "address is 'nowhere'"),
        (b'{"name": "x", "address": "h:1", "colour": 3}', "colour"),
        (b'{"name": 7, "address": "h:1"}', "name"),
        (b'{"name": "rank 1", "address": "h:1"}', "is there already"),
        (b'{"name": "x", "address": "h:1", "slots": 0}', "slots is 0"),
    ],
)
def test_a_bad_worker_is_refused_in_one_line(body, said):
    async def scenario():
        async with serving() as here:
            status, told = await here.ask("POST", "/admin/workers", data=body, headers=JSON)
            assert status in {404, 422}
            assert said in told["error"]
            assert "\n" not in told["error"]

    run(scenario)


def test_what_is_not_there_is_told_in_json():
    async def scenario():
        async with serving() as here:
            assert (await here.ask("GET", "/nothing"))[0] == 404
            assert (await here.ask("PUT", "/admin/workers", json={}))[0] == 405
            assert (await here.ask("DELETE", "/admin/workers/nobody", headers=JSON))[0] == 404
            assert (await here.ask("POST", "/admin/workers", data=b"x" * 70_000, headers=JSON))[
                0
            ] == 413
            assert (await here.ask("DELETE", "/admin/workers/" + "n" * 300, headers=JSON))[0] == 422

    run(scenario)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "a@127.0.0.1", "127.0.0.1/x", "x:y"]
)
def test_names_of_elsewhere_are_not_served(host):
    async def scenario():
        async with serving() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.admin.server.port)
            writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            line = await reader.readline()
            assert b" 421 " in line or b" 400 " in line
            writer.close()

    run(scenario)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:9", "LOCALHOST:80", "me.lan"])
def test_own_names_are(host):
    async def scenario():
        async with serving(hosts=("me.lan",)) as here:
            assert (await here.get("/healthz", headers={"Host": host}))[0] == 200

    run(scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({**JSON, "Origin": "http://evil.example"}, 403),
        ({**JSON, "Origin": "null"}, 403),
        ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("DELETE", "/rank%201")])
@pytest.mark.parametrize("whom", ["workers", "prefill"])
def test_pages_of_elsewhere_cannot_change_anything(headers, status, method, path, whom):
    async def scenario():
        async with serving(prefill_fleet=tier()) as here:
            body = json.dumps({"name": "x", "address": "h:1"})
            answer = await here.ask(method, f"/admin/{whom}{path}", data=body, headers=headers)
            assert answer[0] == status
            _, told = await here.ask("GET", "/admin/prefill")
            assert [each["state"] for each in told["workers"]] == ["up"]
            _, told = await here.ask("GET", "/admin/workers")
            assert [each["state"] for each in told["workers"]] == ["up"] * 4

    run(scenario)


def test_own_pages_can():
    async def scenario():
        async with serving() as here:
            headers = {"Origin": here.url, "Sec-Fetch-Site": "same-origin"}
            added = {"name": "new", "address": "10.1.1.1:80"}
            answer = await here.ask("POST", "/admin/workers", json=added, headers=headers)
            assert answer[0] == 201

    run(scenario)


def test_a_token_opens_what_has_one():
    async def scenario():
        async with serving(token=TOKEN) as here:
            assert (await here.get("/healthz"))[0] == 200
            basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
            for value, status in (
                (None, 401),
                (f"Bearer {TOKEN}", 200),
                (f"bearer {TOKEN}", 200),
                (f"Basic {basic}", 200),
                ("Bearer wrong", 401),
                ("Basic ???", 401),
                ("Bearer ", 401),
                (TOKEN, 401),
            ):
                headers = {} if value is None else {"Authorization": value}
                for path in ("/", "/metrics", "/admin/audit", "/page.js"):
                    assert (await here.get(path, headers=headers))[0] == status

    run(scenario)


def test_a_token_that_is_no_text_is_a_wrong_one():
    async def scenario():
        async with serving(token=TOKEN) as here:
            port = here.admin.server.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer "
            writer.write(head.encode() + b"\xff\xfe\r\n\r\n")
            assert b" 401 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    run(scenario)


def test_whoever_is_reachable_from_elsewhere_serves_addresses_and_own_names_only():
    async def scenario():
        every = "0.0.0.0"  # noqa: S104 # with a token
        async with serving(host=every, token=TOKEN, hosts=("door.example",)) as here:
            url = f"http://127.0.0.1:{here.admin.server.port}/metrics"
            for host, status in (("10.0.0.1:80", 200), ("door.example", 200), ("localhost", 421)):
                headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
                async with here.client.get(url, headers=headers) as answer:
                    assert answer.status == status

    run(scenario)


def test_being_unwell_is_told():
    async def scenario():
        async with serving() as here:
            here.admin.server._unwell = lambda: "Envoy has ended"
            assert await here.ask("GET", "/healthz") == (
                503,
                {"status": "unwell", "reason": "Envoy has ended"},
            )

    run(scenario)


def test_a_port_that_is_taken_is_one_line():
    async def scenario():
        async with serving() as here:
            port = here.admin.server.port
            params = AdminParams(port=port, shadows=ShadowParams(policies=()))
            other = Admin(here.replay.core, params, clock=lambda: 0.0)
            with pytest.raises(ParameterError, match=f"port is {port} of 127.0.0.1") as raised:
                await other.start()
            assert "\n" not in str(raised.value)

    run(scenario)


def test_who_has_stopped_listens_no_more():
    async def scenario():
        async with serving() as here:
            kept = here.replay.core
            assert len(kept.listeners) == 3
        assert len(kept.listeners) == 1

    run(scenario)
