"""The address that requests go to, and the proxy between."""

import ipaddress
from typing import Final
from urllib.request import getproxies, proxy_bypass

import msgspec
from yarl import URL

from vpsbackups_async._transport.secrets import Secret
from vpsbackups_async._wire import API_ROOT
from vpsbackups_async.errors import ConfigurationError

__all__ = ["Proxy", "build_url", "check_base_url", "find_proxy", "is_internal"]


# --- The API -------------------------------------------------------------------------------------


def check_base_url(value: Secret, *, allow_insecure: bool, token: Secret) -> URL:
    """The API's root (`…/api/v1`) for a base URL with or without that path.

    `allow_insecure` permits http to hosts other than loopback. Raises `ConfigurationError`, which
    does not show the value, for anything but an http(s) URL without user, query, fragment and the
    token, and for http where not permitted.
    """
    # No raw value is a local variable here: a traceback may show those.
    root = _root(value, allow_insecure=allow_insecure, token=token)
    if isinstance(root, _Wrong):
        raise ConfigurationError(root.words, "base_url", root.hint)
    return root


class _Wrong(msgspec.Struct, frozen=True):
    """What is wrong with a URL, and what to do about it in Python."""

    words: str
    hint: str = ""


def _root(value: Secret, *, allow_insecure: bool, token: Secret) -> URL | _Wrong:
    """The API's root, or what is wrong with the value."""
    url = _parsed(value)
    if url is None or url.scheme not in {"http", "https"}:
        return _Wrong("must be an http(s) URL with a host")
    if token.is_in(str(url)):
        return _Wrong("must not hold the token", "Pass that as token=...")
    if url.user is not None or url.password is not None:
        return _Wrong("must not hold a user or password", "Pass token=...")
    if url.query_string or url.fragment:
        return _Wrong("must have no query and no fragment")
    if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host or ""):
        return _Wrong(
            "begins with http:// and would send the token unencrypted: use https",
            "Or pass allow_insecure=True if the network is trusted",
        )
    path = url.raw_path.rstrip("/")
    if path.endswith("/api"):
        path += "/v1"
    elif not path.endswith(API_ROOT):
        path += API_ROOT
    return url.with_path(path, encoded=True)


def _parsed(value: str) -> URL | None:
    """The URL if it has a host, else None."""
    try:
        url = URL(value)
        # An `xn--` host that cannot be decoded raises UnicodeError, which is a ValueError.
        is_usable = bool(url.host) and url.port != 0
    except ValueError:
        return None
    return url if is_usable else None


def _is_loopback(host: str) -> bool:
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_internal(host: str) -> bool:
    """Whether the host has a meaning only in the server's own network.

    Such are loopback and private addresses, and names without a dot, as containers have.
    """
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host


def build_url(root: URL, path: str, query: str) -> URL:
    """The URL of a path below the API's root, built from its parts: parsing a str takes longer."""
    return URL.build(
        scheme=root.scheme,
        authority=root.raw_authority,
        path=root.raw_path + path,
        query_string=query,
        encoded=True,
    )


# --- The proxy -----------------------------------------------------------------------------------

_PORTS: Final = {"http": 80, "https": 443}


class Proxy(msgspec.Struct, frozen=True):
    """A proxy: its URL, and the password in it, empty if it has none."""

    url: Secret
    password: Secret


def find_proxy(given: Secret | None, root: URL, *, allow_insecure: bool) -> Proxy | None:
    """The proxy for requests to the API; None for none.

    "env" reads the usual variables as the standard library does, and `ALL_PROXY`, but never .netrc.
    A URL without a scheme means http. Raises `ConfigurationError`, which does not show the value,
    for what is no http(s) URL, and where a proxy on another machine would see the token of an http
    API, unless `allow_insecure`.
    """
    source = "proxy"
    if given == "env":
        given, source = _from_environment(root), "the proxy of the environment"
    if given is None:
        return None
    proxy = _proxy(given, root, allow_insecure=allow_insecure)
    if isinstance(proxy, _Wrong):
        raise ConfigurationError(proxy.words, source, proxy.hint)
    return proxy


def _from_environment(root: URL) -> Secret | None:
    host, port = root.host or "", root.port or _PORTS[root.scheme]
    # NO_PROXY may name a port, and then must be asked with one; an IPv6 address only without.
    if proxy_bypass(host) or proxy_bypass(f"{host}:{port}"):
        return None
    found = getproxies()
    return Secret.wrap(found.get(root.scheme) or found.get("all")) or None


def _proxy(given: Secret, root: URL, *, allow_insecure: bool) -> Proxy | _Wrong:
    """The proxy, or what is wrong with it."""
    if given.lower().startswith("socks") and "://" in given:
        return _Wrong("must be an http:// or https:// URL: SOCKS proxies are not supported")
    url = _parsed(given if "://" in given else f"http://{given}")
    if url is None or url.scheme not in _PORTS:
        return _Wrong(
            "must be an http:// or https:// URL with a host, such as http://user:password@host:3128"
        )
    if root.scheme == "http" and not allow_insecure and not _is_loopback(url.host or ""):
        return _Wrong(
            "is on another machine and would see the token of an http:// API: use https or none",
            "Or pass allow_insecure=True if the proxy is trusted",
        )
    return Proxy(Secret(url), Secret(url.password or ""))
