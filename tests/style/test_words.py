"""One word for one thing: discouraged synonyms do not enter the code (see docs/glossary.md)."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# The discouraged word, and the house's word for it.
SYNONYMS = {
    "region": "site",
    "datacenter": "site",
    "migration": "move",
    "migrate": "move",
    "cutover": "handover",
    "flip": "handover",
}
# A word is discouraged as a name for our own thing; by directory or file, where it means something else.
ALLOWED = {
    "src/domicile/control": frozenset({"migration"}),  # of the control schema, not of subjects
    "src/domicile/settings/file.py": frozenset({"region"}),  # of a country, in a text for people
    "src/domicile/survey/market.py": frozenset({"region"}),  # a column of theirs that may say the market
    "src/domicile/survey/vocabulary.py": frozenset({"region"}),  # the same
    "src/domicile/survey/checks.py": frozenset({"region"}),  # the name that phonenumbers gives to countries
    "src/domicile/model/categories.py": frozenset({"migration"}),  # immigration, a key of fideslang
}
_WORD = re.compile("|".join(SYNONYMS), re.IGNORECASE)


def discouraged(text: str, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Discouraged words with their line numbers, as parts of names too (``region_id``)."""
    return [
        f"line {number}: {word!r}, say {SYNONYMS[word]!r}"
        for number, line in enumerate(text.splitlines(), 1)
        for word in (m.group().lower() for m in _WORD.finditer(line))
        if word not in allowed
    ]


def sources() -> list[Path]:
    return sorted(p for p in (ROOT / "src").rglob("*") if p.suffix in (".py", ".sql"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_words(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    allowed = frozenset[str]().union(*(words for place, words in ALLOWED.items() if name.startswith(place)))
    found = discouraged(path.read_text(), allowed)
    assert not found, f"{name}: {found}"


def test_words_bite() -> None:
    assert discouraged("ok\nregion_id = 1  # before the Cutover") == [
        "line 2: 'region', say 'site'",
        "line 2: 'cutover', say 'handover'",
    ]
