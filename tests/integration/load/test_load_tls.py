"""Loads over TLS: who is trusted."""

from __future__ import annotations

import asyncio
import ssl
import subprocess

import pytest
from load_servers import PATIENCE_S, params, requests, serving, whole

from brsolver.errors import ParameterError
from integration.load.params import LoadError
from integration.load.running import load


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1 that nobody but itself vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(cert), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def tried(certificate, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def run():
        async with (
            asyncio.timeout(PATIENCE_S),
            serving(lambda asked, _: whole(asked), tls=context) as (url, _),
        ):
            return await load(requests(), params(url, **more))

    return asyncio.run(run())


def test_a_server_that_nobody_vouches_for_is_not_trusted(certificate):
    with pytest.raises(
        LoadError, match=r"cannot be reached: ClientConnectorCertificateError.*--ca-file"
    ):
        tried(certificate)


def test_one_whose_certificate_is_given_is(certificate):
    assert tried(certificate, ca_file=str(certificate[0])).figures.complete == 4


def test_and_any_is_where_the_user_says_so(certificate):
    assert tried(certificate, insecure=True).figures.complete == 4


def test_files_that_are_no_certificates_are_refused(certificate, tmp_path):
    (tmp_path / "no.pem").write_text("no")
    for name in ("no.pem", "nowhere.pem"):
        with pytest.raises(ParameterError, match=r"must be a file of certificates \(PEM\)"):
            tried(certificate, ca_file=str(tmp_path / name))
