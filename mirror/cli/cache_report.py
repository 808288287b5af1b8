"""What ``mirror cache`` prints for people."""

import time
from typing import Final

from mirror.cli.tables import counted, human_age, human_size, table
from mirror.store.checking import Progress
from mirror.store.inventory import ImageDetails, ImageFacts, Usage
from mirror.store.sweep import Swept
from mirror.store.withdrawal import Removed

_DIGEST_DIGITS: Final = 12


def image_row(image: ImageFacts) -> tuple[str, ...]:
    """Return a line of `mirror cache ls`."""
    digits = image.digest.partition(":")[2][:_DIGEST_DIGITS]
    marks = [
        *(["pinned"] if image.pinned else []),
        *(["not whole"] if not image.complete else []),
    ]
    return (
        f"{image.repository}:{image.tag}" if image.tag else f"{image.repository}@{image.digest}",
        digits,
        "?" if image.size_bytes is None else human_size(image.size_bytes),
        human_size(image.stored_bytes),
        ",".join(image.platforms) or "-",
        "-" if image.used_at is None else human_age(time.time() - image.used_at),
        ", ".join(marks),
    )


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


def details_text(details: ImageDetails) -> str:
    """Return all that is known of one image."""
    image, now = details.image, time.time()
    name = image.repository + (f":{image.tag}" if image.tag else f"@{image.digest}")
    lines = [
        name,
        f"digest     {image.digest}",
        f"type       {image.media_type or 'not here'}",
        f"size       {human_size(image.size_bytes or 0)}, {human_size(image.stored_bytes)} here",
    ]
    if details.confirmed_at is not None:
        lines.append(f"confirmed  {human_age(now - details.confirmed_at)}")
    if image.pinned:
        lines.append("pinned     yes")
    rows = [
        (
            each.digest,
            each.platform or each.media_type or "",
            human_size(each.size_bytes),
            "here" if each.stored else "",
        )
        for each in details.parts
    ]
    if rows:
        lines.append("\n" + table(("LINKS", "", "SIZE", ""), rows, right=(2,)))
    if len(details.history) > 1:
        meanings = [(each.digest, human_age(now - each.since)) for each in details.history]
        lines.append("\n" + table(("THE TAG MEANT", "SINCE"), meanings))
    return "\n".join(lines)
