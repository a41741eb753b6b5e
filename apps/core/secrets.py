"""Secrets of others that must be read again, such as a provider's key: encrypted where they are kept.

The key follows from SECRET_KEY, which is not in the database: who copies the database alone reads no secret. Our own
API keys are not kept at all, only hashed.
"""

import base64
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

_PURPOSE = b"atrium secrets"


class SecretLost(Exception):
    """It was encrypted under another SECRET_KEY: it must be entered again."""


def encrypt(secret: str) -> str:
    """Text for a column of the database; another one each time. Empty stays empty."""
    return _make_cipher(*_get_keys()).encrypt(secret.encode()).decode() if secret else ""


def decrypt(token: str) -> str:
    """What `encrypt` was given. Raises SecretLost."""
    if not token:
        return ""
    try:
        return _make_cipher(*_get_keys()).decrypt(token).decode()
    except InvalidToken:
        raise SecretLost("The secret was stored under another SECRET_KEY.") from None


def _get_keys() -> tuple[str, ...]:
    return tuple(map(str, (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)))


@lru_cache(maxsize=4)
def _make_cipher(*keys: str) -> MultiFernet:
    return MultiFernet([Fernet(_derive(key)) for key in keys])


def _derive(key: str) -> bytes:
    """A key for this purpose alone (RFC 5869)."""
    return base64.urlsafe_b64encode(HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(key.encode()))
