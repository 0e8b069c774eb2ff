"""Which requests go where, and how often they are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.envoy._parts import Part, seconds, typed
from integration.envoy.filters import AUTHZ, EXT_PROC, JSON_USAGE
from integration.messages import names

if TYPE_CHECKING:
    from integration.settings import Limits, ServeConfig

WORKERS = "workers"
"""Cluster of the engines."""
_UNREACHED = ("connect-failure", "refused-stream", "reset-before-request", "reset")


def route_config(config: ServeConfig) -> Part:
    """Return all routes: POST goes through the picker, the rest straight to any worker."""
    refused = _refusals() if config.picker.door == "ext_authz" else []
    straight = _unasked(config)
    nowhere = [_nowhere(match) | straight for match in _ANYWHERE]
    known = [
        route
        for path in config.listen.paths
        for route in (
            _route(path, config.limits, {"headers": [_POST, _BULKY]}) | _unread(),
            _route(path, config.limits, {"headers": [_POST]}),
            _route(path, config.limits, {"headers": [_OTHERS]}) | straight,
        )
    ]
    return {
        "name": "all",
        "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [*refused, *known, *nowhere]}
        ],
        # Engines do not compress, and what they say of usage is read here.
        "request_headers_to_remove": ["accept-encoding", names.CLIENT, names.ENDPOINT],
        # An engine that sends its request's headers back tells clients nothing by them.
        "response_headers_to_remove": [
            *(names.ENDPOINT, names.SERVED, names.RANK, names.PREFILLER),
            *(names.ID, names.CLIENT, names.REFUSAL),
        ],
    }


_ANYWHERE: tuple[Part, ...] = ({"prefix": "/"}, {"connect_matcher": {}})
_POST = {"name": ":method", "string_match": {"exact": "POST"}}
_OTHERS = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|DELETE|OPTIONS"}}}

_BULKY = {
    "name": ":path",
    "string_match": {
        "safe_regex": {"regex": r".*/(embeddings|pooling|classify|score|rerank)(\?.*)?"}
    },
}
"""Answers of any length, which nothing decodes."""


def _unread() -> Part:
    """Return what lets a route's answers pass without being gathered for their usage."""
    off = typed("config.route.v3.FilterConfig", disabled=True)
    return {"typed_per_filter_config": {JSON_USAGE: off}}


def _refusals() -> list[Part]:
    return [
        {
            "match": {
                "prefix": "/",
                "headers": [{"name": names.REFUSAL, "string_match": {"exact": status}}],
            },
            "direct_response": {"status": int(status), "body": {"inline_string": text}},
        }
        for status, text in names.REFUSALS.items()
    ]


def _unasked(config: ServeConfig) -> Part:
    """Return what keeps a route's requests from the picker."""
    name, kind = (
        (AUTHZ, "ext_authz.v3.ExtAuthzPerRoute")
        if config.picker.door == "ext_authz"
        else (EXT_PROC, "ext_proc.v3.ExtProcPerRoute")
    )
    off = typed(f"extensions.filters.http.{kind}", disabled=True)
    return {"typed_per_filter_config": {name: off}}


def _nowhere(match: Part) -> Part:
    text = "No such path or method here: see listen.paths of the front door."
    return {"match": match, "direct_response": {"status": 404, "body": {"inline_string": text}}}


def _route(path: str, limits: Limits, condition: Part) -> Part:
    how = "prefix" if path.endswith("/") else "path_separated_prefix"
    return {
        "match": {how: path, **condition},
        "route": {
            "cluster": WORKERS,
            "timeout": seconds(limits.request_s),
            # Of the stream as a whole, which may be held; attempts have an idle timeout.
            "idle_timeout": "0s",
            "retry_policy": _retries(limits),
        },
    }


def _retries(limits: Limits) -> Part:
    return {
        "retry_on": ",".join((*_UNREACHED, "retriable-status-codes")),
        "retriable_status_codes": list(limits.retry_statuses),
        "num_retries": limits.retries,
        "retry_back_off": {
            "base_interval": seconds(limits.backoff_ms / 1000),
            "max_interval": seconds(limits.max_backoff_ms / 1000),
        },
        "per_try_idle_timeout": seconds(limits.idle_s),
        "host_selection_retry_max_attempts": 3,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed(
                    "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                ),
            }
        ],
    }
