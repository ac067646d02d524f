"""TLS contexts: trusted authorities and the client certificate.

Certificate files are read for the first https host.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.regular_files import read_regular

_MAX_PEM_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Certificates are always verified: against the system's authorities and those in `ca_file`.

    `client_cert` (with `client_key`, if that is a separate file) is presented to the user's hosts.
    """

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    def check(self) -> None:
        """Raise ConfigError for a file that can't be used, before the first request."""
        named = os.environ.get("SSL_CERT_FILE")
        if named and named != os.devnull:  # which trusts nobody
            _check_pem(Path(named), "SSL_CERT_FILE", "It should name a file of CA certificates.")
        if self.ca_file is not None or self.client_cert is not None:
            self.context(as_client=True)

    def context(self, *, as_client: bool = False) -> ssl.SSLContext:
        """The context for a connection. Raises ConfigError for a file that can't be used."""
        context = ssl.create_default_context()  # respects SSL_CERT_FILE
        context.set_alpn_protocols(["http/1.1"])
        if self.ca_file is not None:
            _load_authorities(context, self.ca_file)
        if as_client and self.client_cert is not None:
            _load_client(context, self.client_cert, self.client_key)
        return context


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    expected = "Expected CA certificates in PEM format."
    _check_pem(file, "--ca-file", expected)
    try:
        context.load_verify_locations(file)
    except OSError as error:  # includes ssl.SSLError
        raise ConfigError(f"--ca-file {file} can't be used: {_why(error)}. {expected}") from error


def _load_client(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    def ask_nobody() -> str:
        raise ConfigError(
            f"The key of --client-cert {cert} is encrypted. Give an unencrypted one: "
            "`openssl pkey -in KEY -out PLAIN` writes it."
        )

    expected = "Expected a certificate and its key, PEM, in one file or with --client-key."
    _check_pem(cert, "--client-cert", expected)
    if key is not None:
        _check_pem(key, "--client-key", expected)
    try:
        context.load_cert_chain(cert, key, ask_nobody)
    except OSError as error:
        raise ConfigError(
            f"--client-cert {cert} can't be used: {_why(error)}. {expected}"
        ) from error


def _check_pem(file: Path, name: str, expected: str) -> None:
    """Raise ConfigError for anything but a regular file: OpenSSL would wait for a pipe for ever."""
    try:
        read_regular(file, max_bytes=_MAX_PEM_BYTES, remedy=expected)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it contains nothing of the kind").replace("_", " ").lower()
    return error.strerror or str(error)
