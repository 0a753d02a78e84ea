# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys: RSA and Ed25519 in PEM, as `openssl genpkey` or `openssl genrsa` write them."""

import functools
import inspect
import os
import stat

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa, utils

MINIMUM_BITS = 1024
# Checking that p and q are prime takes 30 ms per key. Verifying one signature also proves that the parts match.
# Debian 12's python3-cryptography always checks.
_SKIP = "unsafe_skip_rsa_key_validation"
_OPTIONS = {_SKIP: True} if _SKIP in inspect.signature(serialization.load_pem_private_key).parameters else {}


class KeyUnusable(ValueError):
    """The file has no key that can sign; the message names the file, never its content."""


class SigningKey:
    """A private key and the one algorithm it signs with: `rsa-sha256` or `ed25519-sha256`."""

    def __init__(self, key: "rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey") -> None:
        self._key = key
        self.algorithm = "rsa-sha256" if isinstance(key, rsa.RSAPrivateKey) else "ed25519-sha256"

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest of 32 bytes (RFC 8017 PKCS#1 v1.5; RFC 8463 §3 for Ed25519)."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
        return self._key.sign(digest)


@functools.cache
def _parse(pem: bytes) -> SigningKey:
    # Loading takes far longer than signing, so a reload must not repeat it.
    key = serialization.load_pem_private_key(pem, None, **_OPTIONS)
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MINIMUM_BITS:
            raise ValueError(f"RSA keys need {MINIMUM_BITS} bits at least (RFC 8301), this one has {key.key_size}")
        try:
            signature = SigningKey(key).sign(bytes(32))
            key.public_key().verify(signature, bytes(32), padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
        except InvalidSignature:
            raise ValueError("this RSA key is inconsistent") from None
    elif not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError("neither RSA nor Ed25519")
    return SigningKey(key)


def load_key(path: str) -> SigningKey:
    """Read a key file. Raises KeyUnusable if it cannot be read or used, or if its mode is looser than 0640."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o037:
                whom = "accessible to every user" if mode & 0o007 else "writable by its group"
                raise KeyUnusable(f"key file {path} is {whom}; its mode must be 0640 or tighter")
            return _parse(file.read(65536))
    except OSError as error:
        raise KeyUnusable(f"key file {path}: {error.strerror}") from None
    except KeyUnusable:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = str(error) if "RSA" in str(error) else "must be an unencrypted private key in PEM format"
        raise KeyUnusable(f"key file {path}: {why}") from None
