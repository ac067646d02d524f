"""Why a host can't be reached, in a sentence: name, connection, TLS or proxy. Pure."""

from __future__ import annotations

import errno
import re
import socket
import ssl

from scrapers.fetch.resolving import PrivateAddressError
from scrapers.fetch.response import FetchError

_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
_BROKEN = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})
_NO_SERVER = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL})
# The standard library's name for what OpenSSL reports if the server speaks plain HTTP.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})


def explain(error: BaseException, place: str) -> FetchError:
    """The meaning of an error on the way to `place` (host and port); `error` may come from any layer."""
    for read in (_of_name, _of_tls, _of_connection):
        if (found := read(error, place)) is not None:
            return found
    if isinstance(error, ValueError):
        return FetchError("bad_url", f"{place} can't be requested: {error}")
    detail = f"no connection to {place}: {type(error).__name__}: {error}"
    return FetchError("connection", detail, retry=True, sign="down")


def _of_name(error: BaseException, place: str) -> FetchError | None:
    if isinstance(error, PrivateAddressError):
        return FetchError("private_address", f"{error}, which a public page must not name")
    if not isinstance(error, socket.gaierror):
        return None
    why = error.strerror or str(error)
    if error.errno in _NO_SERVER:
        detail = f"no name server responds for {place}: {why}"
        return FetchError("no_name_server", detail, retry=True, sign="down")
    return FetchError(
        "name_not_found", f"the name of {place} was not found: {why}", retry=True, sign="down"
    )


def _of_tls(error: BaseException, place: str) -> FetchError | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or str(error)
        return FetchError("tls", f"TLS: the certificate of {place} is not trusted: {why}")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        detail = f"TLS: {place} ended the handshake"
        return FetchError("tls", detail, retry=True, sign="down")
    if isinstance(error, ssl.CertificateError):
        return FetchError("tls", f"TLS: the certificate of {place} is not trusted: {error}")
    if isinstance(error, ssl.SSLError):
        why = f"{place} doesn't speak it" if error.reason in _NO_TLS else f"{place}: {_said(error)}"
        return FetchError("tls", f"TLS: {why}")
    return None


def _said(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _number(error: BaseException) -> int | None:
    """The number of an error; of several addresses the most specific one."""
    if not isinstance(error, OSError):
        return None
    if error.errno is None and (found := re.findall(r"\[Errno (\d+)\]", str(error))):
        return max(map(int, found), key=lambda number: number == errno.ECONNREFUSED)
    return error.errno


def _of_connection(error: BaseException, place: str) -> FetchError | None:
    if isinstance(error, TimeoutError):
        detail = f"no connection to {place} in time"
        return FetchError("timeout", detail, retry=True, sign="overload")
    number = _number(error)
    if isinstance(error, ConnectionRefusedError) or number == errno.ECONNREFUSED:
        return FetchError("refused", f"{place} refused the connection", retry=True, sign="down")
    if number in _UNREACHABLE:
        detail = f"no route to {place}"
        return FetchError("unreachable", detail, retry=True, sign="down")
    if number in _BROKEN:
        detail = f"{place} broke off the connection"
        return FetchError("disconnected", detail, retry=True, sign="down")
    return None
