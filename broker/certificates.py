"""The files behind TLS: the broker's certificate, and whose certificates it believes; read anew when they change."""

import logging
import ssl
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_log = logging.getLogger(__name__)

_VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class TlsFault(Exception):
    """A file cannot be used. `field` is its name in `TlsFiles`; the text says what is wrong with which file."""

    def __init__(self, field: Literal["certificate", "key", "client_ca"], message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What TLS is made from; all in PEM format.

    certificate: the broker's, and behind it those that lead to its authority.
    key: the certificate's private key, without a passphrase.
    client_ca: the authorities whose clients' certificates are believed.
    client_certificates: whether a client shows one. "optional": it may, and then it must be a good one.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_certificates: Literal["none", "optional", "required"] = "none"

    def context(self) -> ssl.SSLContext:
        """For connections from now on. Raises TlsFault."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # or a client may have keys made again and again
        self._expect_certificate("certificate", self.certificate)
        _read("key", self.key)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
        except _HasPassphrase as error:
            raise TlsFault("key", f"{self.key} has a passphrase; take it away") from error
        except ssl.SSLError as error:
            if error.reason is None:
                raise TlsFault("key", f"{self.key} holds no private key in PEM format") from error
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsFault("key", f"{self.key} is not the key of the certificate {self.certificate}") from error
            raise TlsFault("certificate", f"{self.certificate} cannot be used: {error.reason}") from error
        if self.client_certificates != "none":
            if self.client_ca is None:
                raise TlsFault("client_ca", "no authority is named for the certificates of clients")
            self._expect_certificate("client_ca", self.client_ca)
            context.load_verify_locations(self.client_ca)
            context.verify_mode = _VERIFY[self.client_certificates]
        return context

    def _expect_certificate(self, field: Literal["certificate", "client_ca"], path: Path) -> None:
        text = _read(field, path).decode("ascii", errors="ignore")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise TlsFault(field, f"{path} holds no certificate in PEM format") from error

    def stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What changes when a file does."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)


class _HasPassphrase(Exception):
    pass


def _no_passphrase() -> str:
    raise _HasPassphrase  # OpenSSL would ask whoever sits at the terminal


def _read(field: Literal["certificate", "key", "client_ca"], path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFault(field, f"{path} cannot be read: {error.strerror or error}") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:  # then it changes when it can be seen again
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Certificates:
    """The TLS context of the next connection. Raises TlsFault if there is no good one to begin with."""

    def __init__(self, files: TlsFiles, counters: Counter[str]) -> None:
        self._files = files
        self._counters = counters
        self._stamps = files.stamps()
        self._context = files.context()

    def current(self) -> ssl.SSLContext:
        """The context by the files as they are now."""
        if self._files.stamps() != self._stamps:
            self.reload()
        return self._context

    def reload(self) -> None:
        """Read the files anew. If they cannot be used, what was in use stays so, and the log says why."""
        self._stamps = self._files.stamps()
        try:
            self._context = self._files.context()
        except TlsFault as fault:
            self._counters["certificate_reloads_failed"] += 1
            _log.error("the certificates in use stay as they are: %s", fault)
        else:
            self._counters["certificate_reloads"] += 1


def name_shown(connection: ssl.SSLObject | None) -> str | None:
    """Whose verified certificate the peer has shown: the common name (CN) of its subject.

    None if it has shown none; "", which is nobody's name, if the certificate has no common name or several.
    """
    certificate = None if connection is None else connection.getpeercert()
    return _common_name(certificate) if certificate else None


def _common_name(certificate: Mapping[str, object]) -> str:
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    names = [value for part in subject for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 else ""
