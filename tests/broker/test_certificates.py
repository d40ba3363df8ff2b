"""Certificates: which files can be used, how they change under way, and what a client's says."""

import asyncio
import os
import ssl
from dataclasses import replace

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from broker.certificates import TlsFault
from broker.guard import NOT_AUTHORIZED, NotAdmitted
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.packets import Connect, encode
from hub.protocol.topics import Identity, Topics

CONNECT = encode(Connect("pond7", username="pond7", password=b"right"))


def damaged(path, *, line):
    lines = path.read_text().splitlines()
    lines[line] = lines[line][:8]
    path.write_text("\n".join(lines))


def with_a_passphrase(path):
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))


def unreadable(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("field", "spoil", "said"),
    [
        ("certificate", lambda path: path.unlink(), "cannot be read: No such file or directory"),
        ("certificate", unreadable, "cannot be read: Is a directory"),
        ("certificate", lambda path: path.write_text("hello"), "holds no certificate in PEM format"),
        ("certificate", lambda path: path.write_bytes(b"\x30\x82\xff"), "holds no certificate in PEM format"),
        ("certificate", lambda path: damaged(path, line=3), "holds no certificate in PEM format"),
        ("key", lambda path: path.unlink(), "cannot be read: No such file or directory"),
        ("key", lambda path: path.write_text(""), "holds no private key in PEM format"),
        ("key", lambda path: damaged(path, line=1), "holds no private key in PEM format"),
        ("key", with_a_passphrase, "has a passphrase; take it away"),
        ("key", lambda path: trustme.CA().private_key_pem.write_to_path(path), "is not the key of the certificate"),
        ("client_ca", lambda path: path.unlink(), "cannot be read: No such file or directory"),
        ("client_ca", lambda path: path.write_text("hello"), "holds no certificate in PEM format"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(tls, field, spoil, said):
    files = replace(tls.files, client_certificates="required")
    files.context()
    path = getattr(files, field)
    spoil(path)
    with pytest.raises(TlsFault, match=said) as fault:
        files.context()
    assert fault.value.field == field
    assert str(path) in str(fault.value)


def test_clients_certificates_need_an_authority(tls):
    with pytest.raises(TlsFault) as fault:
        replace(tls.files, client_ca=None, client_certificates="optional").context()
    assert fault.value.field == "client_ca"


def test_nothing_older_than_tls_1_2_is_spoken(tls):
    context = tls.files.context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(start_broker, tls, version):
    place = await start_broker(tls_port=0, tls=tls.files)
    client = tls.client()
    client.minimum_version = client.maximum_version = version
    peer = await place.socket(port=place.broker.tls_port, ssl=client)
    assert (await peer.connect("pond7")).code == 0


def shown(peer):
    """The certificate that the broker showed this peer."""
    return peer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)


async def secure(place, tls, **how):
    return await place.socket(port=place.broker.tls_port, ssl=tls.client(**how))


async def test_a_broker_that_begins_with_bad_certificates_does_not_begin(tls):
    tls.files.key.unlink()
    with pytest.raises(TlsFault):
        EmbeddedBroker(BrokerOptions(port=0, tls_port=0, tls=tls.files), print, Topics(), print)


@pytest.mark.parametrize("told", [True, False], ids=["told", "noticed"])
async def test_new_certificates_are_for_new_connections_and_old_ones_go_on(start_broker, tls, told):
    place = await start_broker(tls_port=0, wss_port=0, tls=tls.files)
    old = await secure(place, tls)
    await old.connect("pond7")
    first = shown(old)
    assert shown(await secure(place, tls)) == first
    tls.renew()
    if told:
        place.broker.reload_certificates()
    new = await secure(place, tls)
    assert shown(new) != first
    assert shown(await place.socket(port=place.broker.wss_port, ssl=tls.client())) == shown(new)
    assert await old.so_far() == []
    assert place.broker.counters["certificate_reloads"] == 1


async def test_a_bad_new_pair_changes_nothing_and_is_said_once(start_broker, tls, caplog):
    place = await start_broker(tls_port=0, tls=tls.files)
    first = shown(await secure(place, tls))
    tls.renew(key=False)  # the certificate is there before its key
    assert shown(await secure(place, tls)) == first
    assert shown(await secure(place, tls)) == first
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "is not the key of the certificate" in caplog.text
    assert place.broker.counters["certificate_reloads_failed"] == 1
    tls.renew()
    assert shown(await secure(place, tls)) != first


async def test_a_file_that_is_replaced_by_one_of_the_same_age_and_length_is_noticed(start_broker, tls):
    place = await start_broker(tls_port=0, tls=tls.files)
    first = shown(await secure(place, tls))
    times = [path.stat() for path in (tls.files.certificate, tls.files.key)]
    for path in (tls.files.certificate, tls.files.key):
        path.rename(path.with_suffix(".old"))
    tls.renew()
    for path, stat in zip((tls.files.certificate, tls.files.key), times, strict=True):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert shown(await secure(place, tls)) != first


async def seen(place, peer, user="pond7"):
    """Let the peer connect, and return the name that the broker saw in its certificate."""
    names = []

    async def authenticate(shown):
        names.append(shown.certificate_name)
        return Identity("site", "pond7")

    place.broker._guard._authenticate = authenticate
    await peer.connect(user, client_id="pond7")
    return names[0]


async def test_a_certificate_that_is_asked_for_names_its_site(start_broker, tls):
    place = await start_broker(tls_port=0, wss_port=0, tls=replace(tls.files, client_certificates="optional"))
    assert await seen(place, await secure(place, tls, name="pond7")) == "pond7"
    assert await seen(place, await secure(place, tls)) is None
    assert await seen(place, await secure(place, tls, name="")) == ""  # a certificate that names nobody
    assert await seen(place, await place.socket()) is None


async def test_a_certificate_that_nobody_asked_for_says_nothing(start_broker, tls):
    place = await start_broker(tls_port=0, tls=tls.files)
    assert await seen(place, await secure(place, tls, name="pond7")) is None


@pytest.mark.parametrize(
    ("policy", "client"),
    [
        ("required", {}),
        ("required", {"name": "pond7", "authority": trustme.CA()}),
        ("optional", {"name": "pond7", "authority": trustme.CA()}),
    ],
    ids=["none", "of another authority", "of another authority though none is needed"],
)
async def test_without_the_certificate_that_is_wanted_nobody_comes_in(start_broker, tls, policy, client):
    place = await start_broker(tls_port=0, tls=replace(tls.files, client_certificates=policy))
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):  # in TLS 1.3 the client learns it late
        await (await secure(place, tls, **client)).connect("pond7")
    assert place.refusals[0].reason == "client-certificate"


async def test_who_authenticates_may_have_a_reason_of_its_own(start_broker):
    place = await start_broker()

    async def authenticate(_):
        raise NotAdmitted(NOT_AUTHORIZED, "certificate-of-another")

    place.broker._guard._authenticate = authenticate
    peer = await place.socket()
    assert (await peer.connect("pond7")).code == NOT_AUTHORIZED
    assert place.broker.counters["refused_certificate-of-another"] == 1


async def test_an_idle_tls_handshake_holds_up_nobody(start_broker, tls):
    place = await start_broker(tls_port=0, tls=tls.files, connect_timeout_s=3600)
    silent = [await place.socket(port=place.broker.tls_port) for _ in range(20)]
    async with asyncio.timeout(5):
        assert (await (await secure(place, tls)).connect("pond7")).code == 0
    assert len(silent) == place.broker.counters["connections_unauthenticated"]
