"""The address that requests go to, the token they carry, and the proxy between."""

import ipaddress
from typing import NoReturn, Self, SupportsIndex
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from vpsbackups_async._wire import API_ROOT
from vpsbackups_async.errors import ConfigurationError

__all__ = ["Secret", "build_url", "check_base_url", "proxy_url"]


class Secret(str):
    """A str whose repr is masked, so that tracebacks with local variables do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a token is not pickled: make the client where it is used")

    @classmethod
    def wrap(cls, value: object) -> "Secret":
        """The value as a secret, without surrounding space; empty if it is no str. Never raises."""
        return cls(value.strip()) if isinstance(value, str) else cls()

    def checked(self) -> Self:
        """The token itself; raises `ConfigurationError`, without showing it, if it is unusable."""
        if not self:
            raise ConfigurationError(
                "there is no token: pass token=... (a str) or set VPS_API_TOKEN"
            )
        if not (self.isascii() and self.isprintable()) or " " in self:
            raise ConfigurationError(
                "the token holds a space, a control character or a non-ASCII character: "
                "copy it again from the panel"
            )
        return self


def check_base_url(value: str | URL, *, allow_insecure: bool) -> URL:
    """The API's root (`…/api/v1`) for a base URL with or without that path.

    `allow_insecure` permits http to hosts other than loopback. Raises `ConfigurationError` for
    anything but an http(s) URL without user, query and fragment, and for http where not permitted.
    """
    try:
        url = URL(value)
    except (ValueError, TypeError):
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        shown = "the one given" if "@" in str(value) else repr(value)
        raise ConfigurationError(f"base_url must be an http(s) URL with a host, not {shown}")
    if url.user is not None or url.password is not None:
        raise ConfigurationError("base_url must not hold a user or password: pass token=...")
    if url.query_string or url.fragment:
        shown = str(url.with_query(None).with_fragment(None))
        raise ConfigurationError(f"base_url must have no query and no fragment, only {shown!r}")
    if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host or ""):
        raise ConfigurationError(
            f"base_url {str(url)!r} would send the token unencrypted: use https, "
            "or pass allow_insecure=True if the network is trusted"
        )
    path = url.raw_path.rstrip("/")
    if path.endswith("/api"):
        path += "/v1"
    elif not path.endswith(API_ROOT):
        path += API_ROOT
    return url.with_path(path, encoded=True)


def _is_loopback(host: str) -> bool:
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def build_url(root: URL, path: str, query: str) -> URL:
    """The URL of a path below the API's root, built from its parts: parsing a str takes longer."""
    return URL.build(
        scheme=root.scheme,
        authority=root.raw_authority,
        path=root.raw_path + path,
        query_string=query,
        encoded=True,
    )


def proxy_url(proxy: Secret | None, root: URL) -> Secret | None:
    """The URL of the proxy, None for none; `env` reads the usual variables, but never .netrc."""
    if proxy != "env":
        return proxy
    found = None if proxy_bypass(root.host or "") else getproxies().get(root.scheme)
    return Secret(found) if found else None
