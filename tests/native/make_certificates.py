"""Writes certificates.h: what the C tests of TLS show each other. Run it again only if they are to be others.

python tests/native/make_certificates.py > tests/native/certificates.h
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PAST, LAST_YEAR, NEXT_CENTURY, LATER = (datetime.datetime(year, 1, 1) for year in (2020, 2021, 2120, 2121))


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
    usages: tuple[x509.ObjectIdentifier, ...] = (),
    begin: datetime.datetime = PAST,
    end: datetime.datetime = NEXT_CENTURY,
) -> str:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def private(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> str:
    kind = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind).decode()


def main() -> None:
    key, authority, other, stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    texts = {
        "KEY": private(key),
        "CERTIFICATE": certificate("a rank", key, "the tests", authority, usages=both),
        "EXPIRED": certificate("a rank", key, "the tests", authority, usages=both, end=LAST_YEAR),
        "NOT_YET": certificate("a rank", key, "the tests", authority, begin=NEXT_CENTURY, end=LATER),
        "SERVER_ONLY": certificate("a rank", key, "the tests", authority, usages=both[:1]),
        "AUTHORITY": certificate("the tests", authority, "the tests", authority, authority=True),
        "OTHER_KEY": private(other),
        "OTHER_CERTIFICATE": certificate("a rank", other, "others", stranger),
        "OTHER_AUTHORITY": certificate("others", stranger, "others", stranger, authority=True),
        "LONE": certificate("alone", key, "alone", key, authority=True),
        "ENCRYPTED_KEY": private(key, b"password"),
    }
    print("/* Made by make_certificates.py, for the tests alone. */")
    print("#ifndef CMO_TESTS_CERTIFICATES_H\n#define CMO_TESTS_CERTIFICATES_H")
    for label, text in texts.items():
        lines = " \\\n".join(f'    "{line}\\n"' for line in text.splitlines())
        print(f"\n#define PEM_{label} \\\n{lines}")
    print("\n#endif")


if __name__ == "__main__":
    main()
