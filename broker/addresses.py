"""Where somebody comes from."""

import ipaddress


def address_of(peer: tuple[str, int] | None) -> str:
    """`host:port` for people; "unknown" for who was gone before one could ask."""
    if peer is None:
        return "unknown"
    host, port = peer
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(address: str) -> str:
    """Whom an address `host:port` belongs to, as far as one can tell: an IPv4 address, or an IPv6 /64."""
    host = address.rpartition(":")[0].strip("[]")
    if ":" not in host:  # or no address of the internet's, which stands for itself
        return host or address
    ip = ipaddress.IPv6Address(host)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))
