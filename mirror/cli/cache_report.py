"""What ``mirror cache`` prints for people."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from mirror.cli.tables import counted, human_age, human_size, table
from mirror.store.checking import Progress
from mirror.store.inventory import ImageDetails, ImageFacts, Part
from mirror.store.referring import Referrer
from mirror.store.sweep import Swept
from mirror.store.usage import Usage
from mirror.store.withdrawal import Removed

_DIGEST_DIGITS: Final = 12
_PLATFORMS_MAX: Final = 2


def images_text(images: list[ImageFacts], *, is_wide: bool) -> str:
    """Return what `mirror cache ls` shows."""
    head: tuple[str, ...] = ("IMAGE", "DIGEST", "SIZE", "HERE", "PLATFORMS", "HITS", "USED", "")
    rows = [_image_row(each, is_wide=is_wide) for each in images]
    if is_wide:
        head = (*head, "TYPE")
        rows = [(*row, each.media_type or "") for row, each in zip(rows, images, strict=True)]
    sums = (
        f"{counted(len(images), 'image')}, "
        f"{human_size(sum(each.stored_bytes for each in unique(images)))} here (what images share "
        "counts for each)"
    )
    return f"{table(head, rows, right=(2, 3, 5))}\n\n{sums}"


def unique(images: list[ImageFacts]) -> list[ImageFacts]:
    """Return one image of each digest: tags may mean the same."""
    return list({each.digest: each for each in images}.values())


def sorted_images(images: list[ImageFacts], by: str) -> list[ImageFacts]:
    """Return images in order."""
    keys: dict[str, Callable[[ImageFacts], float]] = {
        "name": lambda _: 0,
        "size": lambda image: -(image.size_bytes or 0),
        "here": lambda image: -image.stored_bytes,
        "used": lambda image: -(image.used_at or 0),
        "hits": lambda image: -(image.hits or 0),
    }
    return sorted(images, key=keys[by])


def _image_row(image: ImageFacts, *, is_wide: bool) -> tuple[str, ...]:
    digits = image.digest.partition(":")[2][:_DIGEST_DIGITS]
    marks = [
        *(["pinned"] if image.pinned else []),
        *(["not whole"] if not image.complete else []),
    ]
    name = f"{image.repository}:{image.tag}" if image.tag else f"{image.repository}@{digits}…"
    if is_wide and not image.tag:
        name = f"{image.repository}@{image.digest}"
    return (
        name,
        image.digest if is_wide else digits,
        "?" if image.size_bytes is None else human_size(image.size_bytes),
        human_size(image.stored_bytes),
        _platforms(image.platforms, is_wide=is_wide),
        "-" if image.hits is None else f"{image.hits:,}",
        "-" if image.used_at is None else human_age(time.time() - image.used_at),
        ", ".join(marks),
    )


def _platforms(platforms: tuple[str, ...], *, is_wide: bool) -> str:
    left = len(platforms) - _PLATFORMS_MAX
    if is_wide or left <= 0:
        return ",".join(platforms) or "-"
    return f"{','.join(platforms[:_PLATFORMS_MAX])} +{left}"


def usage_text(usage: Usage) -> str:
    """Return what stands below the table of `mirror cache du`."""
    share = usage.used_bytes / usage.limit_bytes if usage.limit_bytes else 1
    objects = f"{counted(usage.manifests, 'manifest')}, {counted(usage.blobs, 'blob')}"
    limit = f"{human_size(usage.limit_bytes)} ({share:.0%})"
    rows = [
        ("used", human_size(usage.used_bytes), f"of {limit} in {usage.directory}"),
        ("stored", human_size(usage.stored_bytes), objects),
        ("reserved", human_size(usage.reserved_bytes), "for downloads that are running"),
        ("waiting", human_size(usage.partial_bytes), counted(usage.partials, "broken download")),
        ("shared", human_size(usage.shared_bytes or 0), "by several repositories"),
        ("unlinked", human_size(usage.unlinked_bytes or 0), "lists, and what no image needs"),
    ]
    rows += [
        (each.upstream, human_size(each.stored_bytes), f"of {human_size(each.limit_bytes)}")
        for each in usage.upstreams
        if each.limit_bytes is not None
    ]
    return table(rows[0], rows[1:], right=(1,))


def progress_text(event: Progress) -> str:
    """Return how far a verification is."""
    done = f"{human_size(event.checked_bytes)} of {human_size(event.total_bytes)}"
    return f"{counted(event.checked_objects, 'object')}, {done}"


def swept_text(swept: Swept) -> str:
    """Return what a sweep removed, or would have."""
    if not swept.counts:
        return "Nothing to remove."
    lines = [f"{each.kind.replace('_', ' ')}: {each.name}" for each in swept.items]
    left = sum(swept.counts.values()) - len(lines)
    more = [f"… and {left:,} more"] if left else []
    would = "would be freed" if swept.dry_run else "freed"
    counts = ", ".join(
        counted(count, kind.replace("_", " "), kind.replace("_", " ") + "s")
        for kind, count in swept.counts.items()
    )
    return "\n".join([*lines, *more, f"{counts}; {human_size(swept.freed_bytes)} {would}"])


def removed_text(removed: Removed) -> str:
    """Return what a removal removed, or would have."""
    would = "would be removed" if removed.dry_run else "removed"
    lines = [f"{name} {would}" for name in removed.images]
    counts = f"{counted(removed.tags, 'tag')}, {counted(removed.objects, 'object')}"
    freed = "would be freed" if removed.dry_run else "freed"
    return "\n".join([*lines, f"{counts}; {human_size(removed.freed_bytes)} {freed}"])


def details_text(details: ImageDetails, referrers: list[Referrer], *, is_wide: bool) -> str:
    """Return all that is known of one image."""
    image, now = details.image, time.time()
    name = image.repository + (f":{image.tag}" if image.tag else f"@{image.digest}")
    used = "-" if image.used_at is None else human_age(now - image.used_at)
    facts = [
        ("digest", image.digest),
        ("type", image.media_type or "not here"),
        ("size", f"{human_size(image.size_bytes or 0)}, {human_size(image.stored_bytes)} here"),
        ("platforms", ", ".join(image.platforms) or "none is whole here"),
        ("used", used + ("" if image.hits is None else f", {counted(image.hits, 'hit')}")),
    ]
    if details.confirmed_at is not None:
        facts.append(("confirmed", human_age(now - details.confirmed_at)))
    if image.pinned:
        facts.append(("pinned", "yes"))
    others = [each for each in details.tags if each != image.tag]
    if others:
        facts.append(("tags", ", ".join(others)))
    facts += [("part of", each) for each in details.indexes]
    lines = [name, *(f"{key:<10} {value}" for key, value in facts)]
    tree = [*_tree(details.parts, "", is_wide=is_wide)]
    if tree:
        lines += ["", *tree]
    if referrers:
        rows = [_referrer_row(each, is_wide=is_wide) for each in referrers]
        lines.append("\n" + table(("REFERRED TO BY", "", "SIZE", ""), rows, right=(2,)))
    if len(details.history) > 1:
        meanings = [(each.digest, human_age(now - each.since)) for each in details.history]
        lines.append("\n" + table(("THE TAG MEANT", "SINCE"), meanings))
    return "\n".join(lines)


def _tree(parts: Sequence[Part], margin: str, *, is_wide: bool) -> Iterator[str]:
    """Yield what an image links, and what that links."""
    for number, part in enumerate(parts, 1):
        is_last = number == len(parts)
        what = part.platform or _kind(part.media_type)
        size = human_size(part.size_bytes)
        here = "" if part.stored else "  not here"
        here += "  shared" if part.manifests > 1 else ""
        digest = _digest(part.digest, is_wide=is_wide)
        yield f"{margin}{'└─' if is_last else '├─'} {digest}  {size:>9}  {what}{here}"
        below = margin + ("   " if is_last else "│  ")
        yield from _tree(part.parts, below, is_wide=is_wide)


def _kind(media_type: str | None) -> str:
    """Return the word for a media type that people know."""
    text = media_type or ""
    if ".config." in text or "container.image.v1" in text:
        return "config"
    if "layer" in text or "rootfs" in text:
        return "layer"
    return text


def _digest(digest: str, *, is_wide: bool) -> str:
    return digest if is_wide else digest.partition(":")[2][:_DIGEST_DIGITS]


def _referrer_row(referrer: Referrer, *, is_wide: bool) -> tuple[str, ...]:
    size = referrer.size_bytes
    return (
        _digest(referrer.digest, is_wide=is_wide),
        referrer.artifact_type,
        "" if size is None else human_size(size),
        "" if referrer.stored else "not here",
    )
