"""The Korean catalogue: complete, compiled, and with the same placeholders; and the texts of the chat's scripts."""

import re
from pathlib import Path

import polib
import pytest
from django.conf import settings
from django.utils import translation

from apps.chat.strings import get_strings

CATALOGUE = Path(settings.BASE_DIR) / "locale" / "ko" / "LC_MESSAGES" / "django.po"
SCRIPTS = list((Path(settings.BASE_DIR) / "static" / "chat").glob("*.js"))
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|\{\w+\}|</?\w+>")
TEMPLATE_TEXT = re.compile(r"""{% translate (?:"([^"]+)"|'([^']+)')""")
PYTHON_TEXT = re.compile(r"""\b_\(\s*"((?:[^"\\]|\\.)*)"\s*\)""")


@pytest.fixture(scope="module")
def catalogue() -> polib.POFile:
    return polib.pofile(str(CATALOGUE))


def test_everything_is_translated(catalogue: polib.POFile) -> None:
    assert [entry.msgid for entry in catalogue.untranslated_entries() + catalogue.fuzzy_entries()] == []


def test_compiled_catalogue_is_that_of_the_source(catalogue: polib.POFile) -> None:
    compiled = polib.mofile(str(CATALOGUE.with_suffix(".mo")))
    assert {(entry.msgid, entry.msgstr, *entry.msgstr_plural.values()) for entry in compiled} == {
        (entry.msgid, entry.msgstr, *entry.msgstr_plural.values()) for entry in catalogue
    }


def test_translations_keep_their_placeholders(catalogue: polib.POFile) -> None:
    for entry in catalogue:
        for text in (entry.msgstr, *entry.msgstr_plural.values()):
            if text:
                assert sorted(PLACEHOLDER.findall(text)) == sorted(PLACEHOLDER.findall(entry.msgid)), entry.msgid


def test_texts_of_templates_and_code_are_in_the_catalogue(catalogue: polib.POFile) -> None:
    known = {entry.msgid for entry in catalogue}
    base = Path(settings.BASE_DIR)
    used = set()
    for path in (base / "templates").rglob("*.html"):
        used |= {first or second for first, second in TEMPLATE_TEXT.findall(path.read_text())}
    for path in [*(base / "apps").rglob("*.py"), *(base / "project").glob("*.py")]:
        if "gettext" in path.read_text():
            used |= {text.replace('\\"', '"') for text in PYTHON_TEXT.findall(path.read_text())}
    assert len(used) > 200  # the patterns still find them
    assert used - known == set(), "run scripts/translate.py and translate what it names"


def test_scripts_use_exactly_the_texts_that_the_page_brings() -> None:
    source = "\n".join(path.read_text() for path in SCRIPTS)
    used = set(re.findall(r"\bt\(\"(\w+)\"", source))
    assert used <= set(get_strings())
    assert {key for key in get_strings() if key not in used} == {"state_asleep", "state_loading", "state_ready"}
    assert "t(`state_${shown}`)" in source


def test_page_brings_its_texts_in_the_readers_language() -> None:
    with translation.override("ko"):
        assert get_strings()["retry"] == "다시 시도"
