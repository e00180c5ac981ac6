"""What pyproject.toml cannot say: the README for a package index, where links into this repository lead nowhere.

With `Repository` among project.urls they become links into it; without, their texts stay.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:)([^)]*)\)")


def for_the_index(readme: str, repository: str | None) -> str:
    """A README whose every link is absolute."""

    def link(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        if repository is None:
            return "" if picture else text
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/HEAD/{target})"

    return LINK.sub(link, readme)


if __name__ == "__main__":
    urls = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    setup(
        long_description=for_the_index((HERE / "README.md").read_text(encoding="utf-8"), urls.get("Repository")),
        long_description_content_type="text/markdown",
    )
