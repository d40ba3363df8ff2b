"""A certificate for the broker on loopback, signed by an authority that lives as long as the benchmark."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from benchmarks.mqtt import HOST


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM: a server's certificate and key for `HOST`, and the authority that signed it."""

    chain: Path
    key: Path
    authority: Path


def make_certificate(directory: Path) -> Certificate:
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    found = Certificate(directory / "chain.pem", directory / "key.pem", directory / "authority.pem")
    found.chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    found.key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(found.authority))
    return found
