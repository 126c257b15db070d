"""Addresses of databases and servers: their passwords, which are neither stored nor shown, and the files of SQLite."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote

from hyperlax.files import is_too_long

SQLITE = "sqlite:///"
_IN_FRONT = re.compile(r"[^:/]+:/{0,2}[^:/@]*:(.+)@")
_IN_A_URL = re.compile(r"https?://[^:/@?#]*:(?!\d+(?:[/?#]|$))(.+)@")
_SECRET_NAME = re.compile(r"pass(?!file)|pwd|secret|token|api_?key|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"(pwd|password)\s*=", re.IGNORECASE)


def absolute_sqlite(uri: str, example: str) -> str:
    """Return the address of an SQLite file with its absolute path. example: a file's name.

    Raises ValueError, with the problem and its fix, if no such file can be written.
    """
    rest = uri.partition("://")[2]
    name, mark, query = rest.removeprefix("/").partition("?")
    if not name or not rest.startswith("/"):
        raise ValueError(f"names no file. Write {SQLITE}{example}.")
    path = Path(name).absolute()
    check_file(Path(unquote(str(path))), f"{SQLITE}{path}/{example}")
    return f"{SQLITE}{path}{mark}{query}"


def check_form(address: str, kinds: Collection[str], of_path: str) -> None:
    """Raise ValueError, with the problem and its fix, for a kind of database without a place, and for one by a name of other tools.

    kinds: those that an address may begin with. of_path: what a path would be.
    """
    kind = re.split("[+:]", address, maxsplit=1)[0]
    known = "postgresql" if kind == "postgres" else kind
    if "://" in address:
        if known != kind:
            raise ValueError(f"SQLAlchemy calls this database {known}. Begin the address with {known}, not {kind}.")
    elif known in kinds:
        place = {"sqlite": "/FILE", "http": "HOST:PORT", "https": "HOST:PORT"}.get(known, "USER@HOST/DATABASE")
        raise ValueError(f"is not an address. Write {known}://{place}, or ./{address} for {of_path} of this name.")


def check_file(path: Path, example: str) -> None:
    """Raise ValueError, with the problem and its fix, if this process can write no file there. example: another name for it."""
    if is_too_long(path):
        raise ValueError("is longer than the system allows. Choose a shorter name.")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a directory. Make it, or name another file.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path.parent} cannot be written to. Name a file in another directory.")
    if path.is_dir():
        raise ValueError(f"is a directory. Name a file, as {example}.")


def address_of(path: Path) -> str:
    """Return the address of an SQLite file. Escape only `%` and `?`: older versions of SQLAlchemy take the rest literally."""
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def file_of(uri: str) -> Path | None:
    """Return the file of an SQLite address, None for any other."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def secrets_of(uri: str) -> dict[str, str]:
    """Return secret part of an address -> text to show instead: the password before the host, and those of the query.

    A password may contain any character. SQLAlchemy allows that, too, but its `make_url` ends the password at the first @ and
    would show the rest. A port is not a password.
    """
    found, rest = {}, uri
    front = (_IN_A_URL if uri.startswith(("http://", "https://")) else _IN_FRONT).match(uri)
    if front:
        found[f":{front[1]}@"] = ":***@"
        rest = uri[front.end() :]
    for pair in rest.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        if value and (_SECRET_NAME.search(unquote(name)) or _SECRET_VALUE.search(unquote(value))):
            found[pair] = f"{name}=***"
    return found


def without_secrets(text: str, uri: str) -> str:
    """Return a text without the secrets of an address."""
    for secret, shown in secrets_of(uri).items():
        text = text.replace(secret, shown)
    return text


def reason_of(error: BaseException, uri: str) -> str:
    """Return the first sentence of an error, or of the one that caused it, without the secrets of an address."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = without_secrets(str(error), uri).strip().partition("\n")[0]
    return first.partition(". ")[0].removesuffix(".") or type(error).__name__
