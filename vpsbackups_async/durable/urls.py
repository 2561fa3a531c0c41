"""URLs of the databases of durable runs."""

import sys
from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa
from platformdirs import user_state_path
from sqlalchemy import exc

from vpsbackups_async.errors import ConfigurationError

__all__ = ["checked", "default_url"]


def default_url() -> str:
    """The URL of the SQLite file in the user's state folder.

    Raises `ConfigurationError` for a folder whose name is no text.
    """
    path = user_state_path("vpsbackups") / "runs.sqlite"
    _check_text(str(path))
    # Which escapes what has a meaning in a URL.
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def checked(url: str) -> sa.URL:
    """The URL as SQLAlchemy takes it; raises `ConfigurationError` for one that is no database's."""
    try:
        made = sa.make_url(url)
    except (exc.ArgumentError, ValueError):  # the latter for a port
        raise ConfigurationError(
            "a database is given as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    kind = made.drivername.partition("+")[0]
    if kind in {"postgresql", "postgres"}:
        _check_options(made, "PostgreSQL", _options_of_postgres())
        return made.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ConfigurationError(f"a database is sqlite:///... or postgresql://..., not {kind}://")
    if not made.database or made.database == ":memory:":
        raise ConfigurationError("a SQLite database needs a file: sqlite:///PATH")
    _check_options(made, "a SQLite database", ())
    path = str(Path(made.database).absolute())
    _check_text(path)
    return made.set(drivername="sqlite", database=path)


def _check_text(path: str) -> None:
    """Raise `ConfigurationError` for a path that Python could not decode, as no URL can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"the path {path!a} of the database is no text by the locale "
            f"({sys.getfilesystemencoding()}): name another one (--database or "
            "VPSBACKUPS_DATABASE), or set a locale of UTF-8"
        ) from None


def _options_of_postgres() -> set[str]:
    from psycopg import pq  # noqa: PLC0415  # it takes a while, and SQLite needs none of it

    return {one.keyword.decode() for one in pq.Conninfo.get_defaults()}


def _check_options(url: sa.URL, kind: str, known: Collection[str]) -> None:
    """Raise `ConfigurationError` for options in the URL that the database does not have.

    Some would be ignored by the driver, with a warning, and others end it.
    """
    if wrong := [name for name in url.query if name not in known]:
        named = ", ".join(map(repr, wrong))
        raise ConfigurationError(f"the URL of {kind} has no option {named}: leave it out")
