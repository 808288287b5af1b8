"""What is written for people holds together: links lead somewhere, and everything can be found."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.tools.api_reference import document, reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
_ELSEWHERE = {"build", "dist", "results", "node_modules"}
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in _ELSEWHERE for part in page.relative_to(ROOT).parts)
)
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(
    r"(?<!\!)\[[^\]\n]*(?:\n[^\]\n]+)?\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE
)
_HEADING = re.compile(r"^#{1,6} (.+?) *#*$", re.MULTILINE)
_MADE = re.compile(r"<!-- (?:Made|Written) by `([^`]+)`")
_COMMAND = re.compile(r"(?:^|`)make ([a-z][a-z-]*)\b", re.MULTILINE)


@cache
def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that forges make of the headings of *page*."""
    found: list[str] = []
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = found.count(slug)
        found.append(slug)
        if count:
            found.append(f"{slug}-{count}")
    return frozenset(found)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that *page* links, each with the anchor or nothing."""
    for inline, defined in _LINK.findall(prose(page)):
        address = inline or defined
        if not re.match(r"[a-z]+:", address):
            path, _, anchor = address.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_leads_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{page.name} links {target}, which is not there"
        if anchor:
            assert target.suffix == ".md", f"{page.name} links an anchor in {target.name}"
            assert anchor in anchors(target), f"{page.name} links {target.name}#{anchor}"


def test_an_anchor_is_made_as_forges_make_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `GET /v2/` & more\n```sh\n# no heading\n```\n## Twice\n## Twice\n")

    assert anchors(page) == {"get-v2--more", "twice", "twice-1"}


def test_every_page_can_be_reached_from_the_index_and_that_from_the_readme() -> None:
    index = DOCS / "README.md"
    reached, ahead = set[Path](), [index]
    while ahead:
        page = ahead.pop()
        if page not in reached and DOCS in page.parents and page.suffix == ".md":
            reached.add(page)
            ahead += [target for target, _ in links(page)]

    assert {page for page in PAGES if DOCS in page.parents} - reached == set()
    assert index in {target for target, _ in links(ROOT / "README.md")}


async def test_the_admin_api_is_described_as_it_is() -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == reference(await document()), (
        "run `python -m tests.tools.api_reference > docs/api.md`"
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", CONTRIBUTING, DOCS / "tutorial.md"])
def test_every_target_of_make_that_a_page_names_is_there(page: Path) -> None:
    there = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(_COMMAND.findall(page.read_text(encoding="utf-8")))

    assert named - there == set()


def test_contributing_names_how_every_page_that_is_made_is_made() -> None:
    said = CONTRIBUTING.read_text(encoding="utf-8")
    made = {page.name for page in DOCS.glob("*.md") if _MADE.search(page.read_text("utf-8"))}

    assert {name for name in made if f"`docs/{name}`" not in said} == set()
