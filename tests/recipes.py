"""The recipes of docs/recipes as programs: what a reader would copy, pointed at another URL."""

import re
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
URL = "http://127.0.0.1:8400"


def program(page: str, language: str, url: str) -> str:
    """All blocks of a language, one after the other."""
    text = (RECIPES / f"{page}.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} shows no {language}"
    return "\n".join(found).replace(URL, url)
