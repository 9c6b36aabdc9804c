"""Keys of tests, in PEM."""

from typing import Any

from cryptography.hazmat.primitives import serialization


def private_pem(key: Any, passphrase: bytes | None = None) -> bytes:
    how = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def public_pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)
