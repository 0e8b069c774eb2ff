"""Who may ask the admin listener for what."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from integration.admin.params import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from integration.admin.params import AdminParams

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN = frozenset({"/healthz"})
"""Paths that anybody may ask for."""
READING = frozenset({"GET", "HEAD"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guard(params: AdminParams) -> Middleware:
    """Return the middleware that every request has to pass.

    A request's ``Host`` must be a name of the listener, so that no page of elsewhere reaches it
    by a name of its own. What changes something must be JSON and come from no other origin,
    which no form of another page can do without being allowed to.

    Parameters
    ----------
    params : AdminParams
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (refused := _refusal(params, request)) is not None:
            return refused
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return guarded


def _refusal(params: AdminParams, request: web.Request) -> web.Response | None:
    if not _host_is_ours(params, request.headers.get("Host", "")):
        return refusal(421, f"Host {_shown(request.headers.get('Host', ''))} is not served here")
    if request.path not in OPEN and not _knows_token(params, request):
        refused = refusal(401, "a token is needed: Authorization: Bearer TOKEN")
        refused.headers["WWW-Authenticate"] = 'Basic realm="brsolver", charset="UTF-8"'
        return refused
    if request.method in READING:
        return None
    if not _same_origin(request):
        return refusal(403, "pages of another origin may change nothing here")
    if request.content_type != "application/json":
        return refusal(
            415, f"Content-Type is {_shown(request.content_type)}, must be application/json"
        )
    return None


def refusal(status: int, message: str) -> web.Response:
    """Return an error as JSON, with the headers that all answers have."""
    return web.json_response({"error": message}, status=status, headers=HEADERS)


def _shown(text: str) -> str:
    return repr(text[:80])


def _host_is_ours(params: AdminParams, host: str) -> bool:
    name = urlsplit(f"//{host}").hostname if _well_formed(host) else None
    if name is None:
        return False
    if name in {each.lower() for each in (params.host.strip("[]"), *params.hosts)}:
        return True
    if params.loopback:
        return is_loopback(name)
    # Bound to all addresses: one of them, since a name could be anybody's.
    return params.host in {"0.0.0.0", "::"} and _is_address(name)  # noqa: S104 # compared only


def _well_formed(host: str) -> bool:
    try:
        urlsplit(f"//{host}").port  # noqa: B018 # raises where it is none
    except ValueError:
        return False
    return not set(host) & set("/@?#\\ ")


def _is_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(request: web.Request) -> bool:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host", "")


def _knows_token(params: AdminParams, request: web.Request) -> bool:
    if params.token is None:
        return True
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    told = value.strip()
    if scheme.lower() == "basic":
        told = _password(told)
    elif scheme.lower() != "bearer":
        return False
    # Headers may hold bytes that are no UTF-8, which come as surrogates.
    return hmac.compare_digest(told.encode(errors="surrogateescape"), params.token.encode())


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
