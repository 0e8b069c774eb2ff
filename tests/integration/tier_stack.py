"""The whole front door before a prefill tier and a decode tier of fake engines."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request

from serve_stack import DEADLINE_S, Stack, at, idle
from unruly import Seen

from integration.serve.processes import fetch

KEEP_KV_S = 5.0
CAPACITY = 100_000


class TierStack(Stack):
    """As `Stack`, whose engines and relays are those of the decode tier.

    Attributes
    ----------
    prefill : list of Relay
    prefill_seen : Seen
        What the relays before prefill workers saw.
    """

    def __init__(self, folder, *, connector="kv_transfer_params", in_files=False, **more):
        tables = {"picker": {"door": "ext_proc"}, **more}
        super().__init__(folder, **tables)
        self._connector, self._in_files = connector, in_files
        self.prefill, self.prefill_seen = [], Seen()

    def _start(self):
        self._start_loop()
        keep = ("--capacity", str(CAPACITY), "--keep-kv", str(KEEP_KV_S))
        self.prefill_engines = self._started_engines("--role", "prefill", *keep)
        self.prefill = self._started_relays(self.prefill_engines, self.prefill_seen)
        self.engines = self._started_engines("--role", "decode", *self._engine)
        self.relays = self._started_relays(self.engines, self.seen)
        self._start_door()

    def configure(self, addresses, prefill=None):
        """Write settings with these decode workers, and all prefill workers or these."""
        prefill = at(self.prefill) if prefill is None else prefill
        self._tables["tiers"] = {**self._named(prefill, addresses), "connector": self._connector}
        super().configure([])

    def _named(self, prefill, decode):
        """Return what names the workers."""
        if not self._in_files:
            return {"prefill": list(prefill), "decode": list(decode)}
        for tier, addresses in (("prefill", prefill), ("decode", decode)):
            part = self._folder / "part"
            part.write_text("".join(f"{each}\n" for each in addresses))
            part.replace(self._folder / tier)
        return {"prefill_file": "prefill", "decode_file": "decode"}

    def states(self):
        """Return the states of the prefill workers that are listed."""
        told = json.loads(fetch(f"{self.page}/admin/workers"))
        return {each["address"]: each["state"] for each in told["prefill"]}

    def prefills(self, method, name="", body=None):
        """Change the prefill workers by hand; return status and answer."""
        path = f"/{name}" if name else ""
        return posted(f"{self.page}/admin/prefill{path}", body, method=method)

    def kept(self):
        """Return how much of a cache the prefill workers keep for others, by their own word."""
        texts = [fetch(f"http://{each}/metrics") for each in self.prefill_engines.addresses]
        return [
            float(line.split()[-1])
            for line in "".join(texts).splitlines()
            if line.startswith("vllm:kv_cache_usage_perc")
        ]

    async def until_idle(self):
        """Wait until the books of both tiers are empty."""
        return await self.until(all_idle, what="idle")

    async def until_ready(self):
        """Wait until the books are empty and all prefill workers are up."""
        return await self.until(
            lambda audit: all_idle(audit) and states(audit) == ["up"] * len(self.prefill),
            what="idle and up",
        )


def states(audit):
    """Return the states of the prefill workers."""
    return [each["state"] for each in audit["prefill"]["workers"]]


def all_idle(audit):
    """Whether the books of both tiers are empty."""
    tier = audit["prefill"]
    under_way = [each["prompts"] or each["tokens"] or each["kept"] for each in tier["workers"]]
    return idle(audit) and tier["waiting"] == tier["under_way"] == 0 and not any(under_way)


async def changed(stack, *what):
    """Change the prefill workers by hand, beside the loop that sends requests."""
    return await asyncio.to_thread(stack.prefills, *what)


def posted(url, body, *, method="POST"):
    """Return status and answer of JSON that is sent."""
    request = urllib.request.Request(  # noqa: S310 # of this test
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
