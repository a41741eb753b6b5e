"""Brings the message catalogues up to date: collects the texts of code and templates, then compiles what is translated.

Collecting needs GNU gettext (xgettext, msgmerge); compiling needs only polib.
Usage: python scripts/translate.py
"""

import subprocess
import sys
from pathlib import Path

import polib

ROOT = Path(__file__).resolve().parent.parent
IGNORED = (".venv", "tests", "scripts", "bench", "data", "static", "demo_model")


def main() -> None:
    """Rewrites every locale/*/LC_MESSAGES/django.po and .mo; reports what still lacks a translation."""
    ignores = [f"--ignore={folder}" for folder in IGNORED]
    command = [sys.executable, "manage.py", "makemessages", "--all", "--no-wrap", "--no-location", *ignores]
    subprocess.run(command, cwd=ROOT, check=True)
    for path in sorted(ROOT.glob("locale/*/LC_MESSAGES/django.po")):
        catalogue = polib.pofile(str(path), wrapwidth=0)
        catalogue.metadata.pop("POT-Creation-Date", None)  # else every run would be a change
        for entry in catalogue.obsolete_entries():
            catalogue.remove(entry)
        catalogue.save()
        catalogue.save_as_mofile(str(path.with_suffix(".mo")))
        for entry in catalogue.untranslated_entries() + catalogue.fuzzy_entries():
            print(f"{path.relative_to(ROOT)}: not translated: {entry.msgid!r}")


if __name__ == "__main__":
    main()
