"""Which requests go where, and how often they are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.envoy._parts import Part, extension, seconds, typed
from integration.envoy.filters import (
    API_KEYS,
    AUTHZ,
    DOOR,
    EXT_PROC,
    INSTEAD,
    JSON_USAGE,
    RATES,
    instead,
)
from integration.messages import names

if TYPE_CHECKING:
    from integration.settings import Limits, ServeConfig

WORKERS = "workers"
"""Cluster of the engines."""
_UNREACHED = ("connect-failure", "refused-stream", "reset-before-request", "reset")
_AGAIN = "again"
"""What routes are called that a redirect may lead to."""
_REDIRECTS = 1000
ATTEMPT = "x-envoy-attempt-count"
ORIGINAL = "x-envoy-original-url"


def route_config(config: ServeConfig) -> Part:
    """Return all routes: POST goes through the picker, the rest straight to any worker."""
    refused = _refusals() if config.picker.door == "ext_authz" else []
    straight = _unasked(config)
    nowhere = [_nowhere(match) | straight for match in _ANYWHERE]
    known = [
        route
        for path in config.listen.paths
        for route in (
            *_posts(path, config, (_POST, _BULKY), _unread()),
            *_posts(path, config, (_POST,), {}),
            _route(path, config.limits, (_OTHERS,)) | straight,
        )
    ]
    host = {
        "name": "all",
        "domains": ["*"],
        "include_request_attempt_count": True,
        "routes": [*refused, *known, *nowhere],
    }
    return {
        "name": "all",
        "virtual_hosts": [host],
        # Engines do not compress, and what they say of usage is read here.
        "request_headers_to_remove": [
            *("accept-encoding", names.CLIENT, names.ENDPOINT, names.AGAIN, names.LAST),
            ORIGINAL,
        ],
        # An engine that sends its request's headers back tells clients nothing by them.
        "response_headers_to_remove": [
            *(names.ENDPOINT, names.SERVED, names.RANK, names.PREFILLER),
            *(names.ID, names.CLIENT, names.REFUSAL, names.AGAIN, names.HOST, names.LAST),
        ],
    }


def _posts(path: str, config: ServeConfig, headers: tuple[Part, ...], rest: Part) -> list[Part]:
    """Return what a request may be on: one that the picker decided, or that goes without it."""
    limits = config.limits
    plain = _route(path, limits, headers) | rest
    if not asks_again(config):
        return [plain]
    plain["route"]["host_rewrite_header"] = names.HOST
    last = _route(path, limits, (*headers, _has(names.LAST)), retries=0) | rest
    decided = _decided(path, limits, (*headers, _has(names.ID)))
    decided |= _merged(rest, {"typed_per_filter_config": {INSTEAD: _not_led_on()}})
    asked = _route(path, limits, (*headers, _has(names.AGAIN)))
    # Its key has been seen, and taken off, when it came.
    asked |= {"name": _AGAIN, **_merged(rest, _filters_off(API_KEYS, RATES))}
    for each in (last, decided, asked):
        each["route"]["host_rewrite_header"] = names.HOST
    return [last, decided, asked, plain]


def asks_again(config: ServeConfig) -> bool:
    """Tell whether the picker decides anew where a request goes that a worker did not take.

    Not where it sends prompts to be computed first: a body that it has changed is not what a
    client sent.
    """
    return config.limits.retries > 0 and config.tiers is None


def _has(name: str) -> Part:
    return {"name": name, "present_match": True}


def _decided(path: str, limits: Limits, headers: tuple[Part, ...]) -> Part:
    """Return a route whose second attempt is a question to the picker where to go next.

    If nobody answers that, Envoy goes on by itself.
    """
    # One attempt more: the question.
    made = _route(path, limits, headers, retries=limits.retries + 1)
    action = made["route"]
    del action["cluster"]
    action["inline_cluster_specifier_plugin"] = {"extension": _by_attempt()}
    action["retry_policy"]["refresh_cluster_on_retry"] = True
    action["internal_redirect_policy"] = {
        # The picker counts. What is not followed is answered otherwise, see `_not_led_on`.
        "max_internal_redirects": _REDIRECTS,
        "redirect_response_codes": [308],
        "allow_cross_scheme_redirect": True,
        "predicates": [
            extension(
                "internal_redirect_predicates.allow_listed_routes",
                "internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig",
                allowed_route_names=[_AGAIN],
            )
        ],
        # Those that it does not have are taken off the request: nothing is left of the decision.
        "response_headers_to_copy": [
            *(names.AGAIN, names.HOST, names.ID, names.LAST, names.RANK, ATTEMPT)
        ],
    }
    return made


def _not_led_on() -> Part:
    """Return what takes the place of a redirect of the picker's that leads no further."""
    location = {
        "name": "location",
        "typed_config": typed(
            "type.matcher.v3.HttpResponseHeaderMatchInput", header_name="location"
        ),
    }
    ours = {"safe_regex": {"google_re2": {}, "regex": f"https?://{names.NOWHERE}/.*"}}
    answer = {
        "name": "answer",
        "typed_config": typed(
            "extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
            status_code=503,
            body={"inline_string": names.REFUSALS["503"]},
        ),
    }
    one = {
        "predicate": {"single_predicate": {"input": location, "value_match": ours}},
        "on_match": {"action": answer},
    }
    return instead(custom_response_matcher={"matcher_list": {"matchers": [one]}})


def _by_attempt() -> Part:
    kind = "router.cluster_specifiers.matcher.v3"
    header = {
        "name": "attempt",
        "typed_config": typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=ATTEMPT),
    }

    def to(cluster: str) -> Part:
        action = typed(f"extensions.{kind}.ClusterAction", cluster=cluster)
        return {"action": {"name": cluster, "typed_config": action}}

    second = {"single_predicate": {"input": header, "value_match": {"exact": "1"}}}
    tree = {
        "matcher_list": {"matchers": [{"predicate": second, "on_match": to(DOOR)}]},
        "on_no_match": to(WORKERS),
    }
    return extension(
        "router.cluster_specifier_plugin.matcher",
        f"{kind}.MatcherClusterSpecifier",
        cluster_matcher=tree,
    )


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
    return _filters_off(JSON_USAGE)


def _filters_off(*filters: str) -> Part:
    off = typed("config.route.v3.FilterConfig", disabled=True)
    return {"typed_per_filter_config": dict.fromkeys(filters, off)}


def _merged(one: Part, other: Part) -> Part:
    key = "typed_per_filter_config"
    return {key: one.get(key, {}) | other.get(key, {})}


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


def _route(
    path: str, limits: Limits, headers: tuple[Part, ...], *, retries: int | None = None
) -> Part:
    how = "prefix" if path.endswith("/") else "path_separated_prefix"
    return {
        "match": {how: path, "headers": list(headers)},
        "route": {
            "cluster": WORKERS,
            "timeout": seconds(limits.request_s),
            # Of the stream as a whole, which may be held; attempts have an idle timeout.
            "idle_timeout": "0s",
            "retry_policy": _retries(limits, limits.retries if retries is None else retries),
        },
    }


def _retries(limits: Limits, retries: int) -> Part:
    return {
        "retry_on": ",".join((*_UNREACHED, "retriable-status-codes")),
        "retriable_status_codes": list(limits.retry_statuses),
        "num_retries": retries,
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
