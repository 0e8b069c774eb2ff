"""The filters that a request goes through, in their order."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from integration.envoy._parts import Part, exactly, extension, seconds, typed
from integration.envoy.logs import PICKER, START, access_log
from integration.messages import names

if TYPE_CHECKING:
    from integration.settings import Limits, ServeConfig

DOOR = "door"
"""Cluster of the picker's HTTP door."""
HEALTH_PATH = "/health"
"""Answered by Envoy: whether any worker is well; no key needed."""
AUTHZ = names.AUTHZ
API_KEYS = "envoy.filters.http.api_key_auth"
RATES = "envoy.filters.http.local_ratelimit"
EXT_PROC = "envoy.filters.http.ext_proc"
JSON_USAGE = "envoy.filters.http.json_to_metadata"
INSTEAD = "envoy.filters.http.custom_response"
"""Answers something else than what came; routes say when."""
ANSWER_BYTES = 32 * 2**20
"""Of an answer in one piece, which is gathered to read its usage; a longer one would be 500."""
MESSAGE_S = 0.5
"""Seconds beyond those of its watchdog for which a picker may be silent before a request goes on
without it: one that is busy may take a second, one that is dead breaks its streams at once."""
MAX_HOLD_S = 3600.0
"""Seconds for which it may ask at a time, while it holds a request; Envoy allows no more."""
_DAY_S = 86_400.0
_KEYS_AT_ONCE = 10_000
"""Clients whose rates are counted; the one unseen for longest makes place for the next."""


def http_filters(config: ServeConfig) -> list[Part]:
    """Return all of them."""
    return [
        _health(),
        *_api_keys(config),
        *_rates(config),
        *_ask(config),
        {"name": INSTEAD, "typed_config": instead()},
        *_usage(config),
        _router(),
    ]


def forged() -> list[Part]:
    """Return mutations that take off whatever only the picker, or Envoy, may set."""
    exact = (names.ENDPOINT, names.SERVED, f"{names.ENDPOINT}-subset", names.RANK, names.PREFILLER)
    prefixes = (names.OWN, "x-envoy-")
    return [{"remove": name} for name in exact] + [
        {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}}
        for prefix in prefixes
    ]


def _health() -> Part:
    return extension(
        "filters.http.health_check",
        "filters.http.health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"exact": HEALTH_PATH}}],
        # Less than 1 counts as 0, with which no worker at all would do.
        cluster_min_healthy_percentages={"workers": {"value": 1}},
    )


def _api_keys(config: ServeConfig) -> list[Part]:
    if not config.keys:
        return []
    return [
        extension(
            "filters.http.api_key_auth",
            "filters.http.api_key_auth.v3.ApiKeyAuth",
            key_sources=[{"header": "authorization"}, {"header": "x-api-key"}],
            credentials=[{"key": each.key, "client": each.name} for each in config.keys],
            forwarding={"header": names.CLIENT, "hide_credentials": not config.auth.forward},
        )
    ]


def _rates(config: ServeConfig) -> list[Part]:
    limits = config.limits
    if limits.rate is None:
        return []
    by_key = {"request_headers": {"header_name": names.CLIENT, "descriptor_key": "client"}}
    by_address: Part = {"remote_address": {}}
    action, key = (by_key, "client") if config.keys else (by_address, "remote_address")
    always = {"default_value": {"numerator": 100}}
    after = {"key": names.RETRY_AFTER, "value": str(max(1, ceil(1 / limits.rate)))}
    return [
        extension(
            "filters.http.local_ratelimit",
            "filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="rates",
            # Without a descriptor that fits there is no limit.
            token_bucket=_bucket(2**31, 2**31, 1.0),
            filter_enabled=always,
            filter_enforced=always,
            response_headers_to_add=[{"header": after}],
            rate_limits=[{"actions": [action]}],
            descriptors=[{"entries": [{"key": key}], "token_bucket": _rate(limits)}],
            max_dynamic_descriptors=_KEYS_AT_ONCE,
        )
    ]


def _rate(limits: Limits) -> Part:
    rate = limits.rate or 1.0
    tokens = max(1, ceil(rate))
    return _bucket(limits.burst or tokens, tokens, tokens / rate)


def _bucket(most: int, fill: int, interval_s: float) -> Part:
    return {
        "max_tokens": most,
        "tokens_per_fill": fill,
        "fill_interval": seconds(interval_s),
    }


def _ask(config: ServeConfig) -> list[Part]:
    """Return what bounds a body, and asks the picker.

    A stream has one limit for what is buffered of it, request or answer: the last filter's that
    sets it. So bodies are bounded first, and then it is raised for answers in one piece.
    """
    limit = config.limits.body_bytes
    if config.picker.door == "ext_authz":
        return [_buffer(limit), _ext_authz(max(limit, ANSWER_BYTES))]
    return [_buffer(limit), _buffer(max(limit, ANSWER_BYTES)), _ext_proc(config)]


def instead(**matcher: Part) -> Part:
    """Return what is answered instead of what, by a matcher; without one, nothing."""
    return typed("extensions.filters.http.custom_response.v3.CustomResponse", **matcher)


def _buffer(limit: int) -> Part:
    kind = "filters.http.buffer.v3.Buffer"
    return extension("filters.http.buffer", kind, max_request_bytes=limit)


def _ext_authz(limit: int) -> Part:
    return extension(
        "filters.http.ext_authz",
        "filters.http.ext_authz.v3.ExtAuthz",
        failure_mode_allow=True,
        clear_route_cache=True,
        with_request_body={
            "max_request_bytes": limit,
            "allow_partial_message": False,
        },
        allowed_headers=exactly(("content-type", "x-request-id", names.CLIENT, names.AGAIN)),
        disallowed_headers=exactly(("authorization",)),
        http_service={
            # Held requests are answered late; a dead picker breaks the connection.
            "server_uri": {"uri": f"http://{DOOR}", "cluster": DOOR, "timeout": seconds(_DAY_S)},
            "authorization_response": {
                "allowed_upstream_headers": exactly(
                    (names.RANK, names.PREFILLER, names.ID, names.LAST, names.REFUSAL)
                ),
                "allowed_client_headers": exactly(("content-type", names.RETRY_AFTER)),
                "dynamic_metadata_from_headers": exactly((names.ENDPOINT, names.ID)),
            },
        },
    )


def _ext_proc(config: ServeConfig) -> Part:
    # The access log tells of starts and ends. Only who named a prefill worker wants to see an
    # answer begin; what passes here for nothing delays it, and keeps Envoy's own from being sent.
    named = config.tiers is not None and config.tiers.connector == names.PREFILLER
    return extension(
        "filters.http.ext_proc",
        "filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": PICKER}, "timeout": "0s"},
        failure_mode_allow=True,
        message_timeout=seconds(min(config.picker.watchdog_s + MESSAGE_S, MAX_HOLD_S)),
        max_message_timeout=seconds(MAX_HOLD_S),
        allow_mode_override=True,
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SEND" if named else "SKIP",
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        },
        metadata_options={
            "forwarding_namespaces": {"untyped": [names.LB, f"{names.LB}.subset_hint"]},
            "receiving_namespaces": {"untyped": [names.LB]},
        },
    )


def _usage(config: ServeConfig) -> list[Part]:
    """Return what reads tokens out of answers, streamed or whole, as OpenAI's APIs have them."""
    whole = [_rule(path, key) for path, key in _PATHS]
    return [
        extension(
            "filters.http.json_to_metadata",
            "filters.http.json_to_metadata.v3.JsonToMetadata",
            response_rules={
                "rules": whole,
                "allow_content_types_regex": {"regex": r"application/json(\s*;.*)?"},
            },
        ),
        _unless_unread(
            AUTHZ if config.picker.door == "ext_authz" else names.LB,
            extension(
                "filters.http.sse_to_metadata",
                "filters.http.sse_to_metadata.v3.SseToMetadata",
                response_rules={
                    "content_parser": extension(
                        "content_parsers.json",
                        "content_parsers.json.v3.JsonContentParser",
                        rules=[{"rule": rule} for rule in whole],
                    )
                },
            ),
        ),
    ]


def _unless_unread(namespace: str, filter_: Part) -> Part:
    """Return a filter that is passed by where the picker said that there is nothing to read.

    Each event of a stream is taken apart as JSON, which is a fifth of all that Envoy does for it.
    The identity is looked for in metadata: what only sees answers is shown no request's headers.
    """
    matching = "extensions.matching"
    identity = typed(
        f"{matching}.common_inputs.network.v3.DynamicMetadataInput",
        filter=namespace,
        path=[{"key": names.ID}],
    )
    unread = typed(
        f"{matching}.input_matchers.metadata.v3.Metadata",
        value={"string_match": {"suffix": names.UNREAD}},
    )
    predicate = {
        "input": {"name": "identity", "typed_config": identity},
        "custom_match": {"name": "unread", "typed_config": unread},
    }
    skip = typed("extensions.filters.common.matcher.action.v3.SkipFilter")
    one = {
        "predicate": {"single_predicate": predicate},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }
    return {
        "name": filter_["name"],
        "typed_config": typed(
            "extensions.common.matching.v3.ExtensionWithMatcher",
            extension_config=filter_,
            xds_matcher={"matcher_list": {"matchers": [one]}},
        ),
    }


_PATHS = (
    (("usage", "prompt_tokens"), names.PROMPT),
    (("usage", "completion_tokens"), names.COMPLETION),
    (("usage", "input_tokens"), names.PROMPT),
    (("usage", "output_tokens"), names.COMPLETION),
    (("response", "usage", "input_tokens"), names.PROMPT),
    (("response", "usage", "output_tokens"), names.COMPLETION),
)


def _rule(path: tuple[str, ...], key: str) -> Part:
    return {
        "selectors": [{"key": step} for step in path],
        "on_present": {"metadata_namespace": names.USAGE, "key": key, "type": "NUMBER"},
    }


def _router() -> Part:
    return extension(
        "filters.http.router",
        "filters.http.router.v3.Router",
        suppress_envoy_headers=True,
        upstream_log=[access_log(START)],
        upstream_log_options={"flush_upstream_log_on_upstream_stream": True},
    )
