"""Secrets that are kept encrypted."""

import pytest
from django.test import override_settings

from apps.core.secrets import SecretLost, decrypt, encrypt


def test_a_secret_is_read_again_and_does_not_stand_in_what_is_kept() -> None:
    kept = encrypt("sk-upstream")
    assert "sk-upstream" not in kept
    assert kept != encrypt("sk-upstream")
    assert decrypt(kept) == "sk-upstream"
    assert encrypt("") == decrypt("") == ""


def test_another_secret_key_reads_it_only_as_a_successor() -> None:
    with override_settings(SECRET_KEY="old"):
        kept = encrypt("sk-upstream")
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        assert decrypt(kept) == "sk-upstream"
    with override_settings(SECRET_KEY="new"), pytest.raises(SecretLost):
        decrypt(kept)
