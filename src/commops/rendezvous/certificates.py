"""Makes a job's certificates: an authority of its own, whose key is thrown away, and one certificate of it.

``python -m commops.rendezvous.certificates job.pem`` writes them into a new file that only you may read, for
jobs on several hosts; give all ranks a copy. ``commops run --tls`` makes fresh ones for each job, in memory.
Needs the package cryptography: ``pip install 'commops[tls]'``.
"""

from __future__ import annotations

import datetime
import os
import sys

__all__ = ["new_credentials"]

# A hundred days on either side of now: clocks that differ keep no rank out, and a long job can still connect.
_SLACK = datetime.timedelta(days=100)


def new_credentials() -> bytes:
    """Return what `Credentials` takes, for all ranks of a job.

    Nobody can make another certificate that these ranks would accept: the authority's key signs this one and
    is forgotten.

    Raises
    ------
    ImportError
        If cryptography is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise ImportError(
            "certificates are made with cryptography, which is not installed: pip install 'commops[tls]', or "
            "set COMMOPS_TLS_FILE to a file of your own"
        ) from error

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    base = (
        x509.CertificateBuilder()
        .issuer_name(name("authority of a commops job"))
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _SLACK)
    )
    usage = {
        "digital_signature": False,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    own_id = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    of_authority = (
        base.subject_name(name("authority of a commops job"))
        .public_key(authority.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**(usage | {"key_cert_sign": True})), critical=True)
        .add_extension(own_id, critical=False)
        .sign(authority, hashes.SHA256())
    )
    of_ranks = (
        base.subject_name(name("ranks of a commops job"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**(usage | {"digital_signature": True})), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + of_ranks.public_bytes(pem) + of_authority.public_bytes(pem)


def main(arguments: list[str]) -> int:
    """Write a new file of credentials."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m commops.rendezvous.certificates FILE", file=sys.stderr)
        return 2
    try:
        content = new_credentials()
        descriptor = os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (ImportError, OSError) as error:
        print(f"commops: {error}", file=sys.stderr)
        return 1
    with open(descriptor, "wb") as file:
        file.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
