"""The dashboard in a real browser, before a mirror that real bytes go through.

Playwright's ``expect`` is called ``assert_that`` here: it looks until what is said holds, or
raises AssertionError if that does not come true in time.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import expect as assert_that

from tests.fakes.content import Blob, artifact, blob, image, index
from tests.fakes.registry import FakeRegistry

from . import oci
from .below import Below
from .browser import Scheme, Window, launched
from .conftest import StartMirror
from .daemon import free_port
from .loop_thread import LoopThread
from .mirror_process import Mirror

AMD, ARM = image(1, layers=3, layer_bytes=200_000), image(2, architecture="arm64")
ALPINE = index([AMD, ARM, image(3, architecture="unknown")])
REDIS = image(1, layers=4, layer_bytes=200_000)  # has the layers of the other, and one more
SIGNATURE = artifact(REDIS, artifact_type="application/vnd.example.signature")
LIMITED = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "61;w=21600"}
PAGES = {
    "overview": "#/",
    "catalogue": "#/catalogue",
    "repository": "#/catalogue/docker.io/library/alpine",
    "index": "#/image/docker.io/library/alpine:3.20",
    "image": "#/image/docker.io/library/redis:7",
    "requests": "#/requests",
    "clients": "#/clients",
}
TOKEN = "s3cr3t-of-the-admin"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = launched(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def hub(loop_thread: LoopThread) -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    loop_thread.run(registry.__aenter__())
    registry.options.manifest_headers = dict(LIMITED)
    registry.push("library/alpine", ALPINE, ["3.20", "latest"])
    registry.push("library/redis", REDIS, ["7"])
    registry.push("library/redis", SIGNATURE)
    yield registry
    loop_thread.run(registry.__aexit__(None, None, None))


@pytest.fixture
def town(hub: FakeRegistry, start_mirror: StartMirror) -> Mirror:
    """Return a mirror that has served something already."""
    mirror = start_mirror({"docker.io": {"endpoints": [hub.url]}})
    for _ in range(2):
        pull(mirror, "library/alpine", "3.20", ALPINE.digest, AMD.digest, *AMD.blobs)
        pull(mirror, "library/redis", "7", REDIS.digest, *REDIS.blobs)
    mirror.get(f"/v2/library/redis/referrers/{REDIS.digest}")
    mirror.get("/v2/library/nope/manifests/1")
    return mirror


@pytest.fixture
def windows(browser: Browser) -> Iterator[Callable[..., Window]]:
    """Return what opens a window; in the end, none of them may have complained."""
    opened: list[Window] = []

    def window(mirror: Mirror | str, size: str = "desktop", scheme: Scheme = "light") -> Window:
        url = mirror if isinstance(mirror, str) else f"{mirror.admin_url}/"
        opened.append(Window(browser, url, size=size, scheme=scheme))
        return opened[-1]

    yield window
    faults = [fault for each in opened for fault in each.faults]
    for each in opened:
        each.close()
    assert faults == []


def pull(mirror: Mirror, repository: str, *references: str | Blob) -> None:
    for each in references:
        kind, name = ("blobs", each.digest) if isinstance(each, Blob) else ("manifests", each)
        assert mirror.get(f"/v2/{repository}/{kind}/{name}").status == 200


def confirm(page: Page, name: str | re.Pattern[str]) -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=name).click()
    assert_that(dialog).to_have_count(0)


# --- every page ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_page_is_whole_and_without_barriers(
    town: Mirror, windows: Callable[..., Window], size: str, scheme: Scheme
) -> None:
    window = windows(town, size, scheme)
    for name, fragment in PAGES.items():
        window.open(fragment)
        window.shoot(name)
        assert not window.is_too_wide(), name
        assert window.barriers() == [], name


def test_the_overview_tells_what_was_saved(town: Mirror, windows: Callable[..., Window]) -> None:
    page = windows(town).open("#/")
    stats = page.locator(".stat")
    assert_that(stats.nth(0)).to_contain_text(re.compile(r"7\d %of bytes; 6\d % of requests"))
    assert_that(stats.nth(2)).to_contain_text(re.compile(r"7\s*of 10; 7 at Docker Hub"))
    assert_that(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    assert_that(page.get_by_role("region", name="Upstreams")).to_contain_text("Up")
    assert_that(page.locator(".rate")).to_contain_text("61 of 100 left per 6 h")
    assert_that(page.get_by_role("img", name="Throughput")).to_be_visible()
    page.get_by_role("button", name="1 h").click()
    assert_that(page.get_by_role("button", name="1 h")).to_have_attribute("aria-pressed", "true")
    assert page.locator("button[aria-pressed=true]").count() == 1, "one span at a time"


def test_a_running_pull_is_seen_live(
    hub: FakeRegistry, loop_thread: LoopThread, town: Mirror, windows: Callable[..., Window]
) -> None:
    big = blob(8_000_000)
    hub.push_blob("library/golang", big)
    gate = hub.hold_body(big.digest, after_bytes=4_000_000)
    window = windows(town)
    page = window.open("#/")
    assert_that(page.get_by_text("No download is running.")).to_be_visible()
    pulls = [threading.Thread(target=pull, args=(town, "library/golang", big)) for _ in range(3)]
    for each in pulls:
        each.start()
    row = page.get_by_role("region", name="Running downloads").locator("tbody tr")
    assert_that(row).to_contain_text("docker.io/library/golang")
    assert_that(row).to_contain_text(re.compile(r"of 7\.63 MiB \(5\d %\)"))
    assert_that(row.locator("td").last).to_have_text("3")
    window.shoot("running")
    assert window.barriers() == []
    loop_thread.loop.call_soon_threadsafe(gate.release)
    for each in pulls:
        each.join()
    assert_that(page.get_by_text("No download is running.")).to_be_visible()


# --- the catalogue ---------------------------------------------------------------------------


def test_the_catalogue_leads_from_a_search_to_the_layers(
    town: Mirror, windows: Callable[..., Window]
) -> None:
    page = windows(town).open("#/catalogue")
    page.keyboard.press("/")
    page.keyboard.type("alp")
    rows = page.get_by_role("region", name="Repositories").locator("tbody tr")
    assert_that(rows).to_have_count(1)
    page.keyboard.press("Escape")
    rows.get_by_role("link").click()
    page.get_by_role("link", name="3.20").click()
    assert_that(page.get_by_role("heading", level=1)).to_have_text("docker.io/library/alpine:3.20")
    assert_that(page.get_by_text("serve it", exact=True)).to_be_visible()
    page.get_by_text("linux/amd64").last.click()
    layers = page.get_by_role("region", name="Layers").locator("tbody tr")
    assert_that(layers).to_have_count(4)
    assert_that(layers.nth(1)).to_contain_text("with 1 other image")
    page.get_by_role("link", name="Open it").click()
    assert_that(page.get_by_role("heading", level=1)).to_contain_text(AMD.digest)
    assert page.url.endswith(f"@{AMD.digest}")


def test_the_catalogue_is_sorted_by_what_one_likes(
    town: Mirror, windows: Callable[..., Window]
) -> None:
    page = windows(town).open("#/catalogue")
    names = page.get_by_role("region", name="Repositories").locator("tbody th")
    alpine, redis = "docker.io/library/alpine", "docker.io/library/redis"
    assert_that(names).to_have_text([redis, alpine])
    page.get_by_role("button", name="Repository").click()
    assert_that(names).to_have_text([alpine, redis])
    page.get_by_role("button", name="Stored").click()
    assert_that(names).to_have_text([redis, alpine])
    assert_that(page.locator("th[aria-sort=descending]")).to_have_text("Stored")
    page.get_by_role("button", name="Stored").click()
    assert_that(names).to_have_text([alpine, redis])
    assert page.locator("th[aria-sort=ascending]").all_inner_texts() == ["Stored"]


def test_the_catalogue_finds_images_by_tag(town: Mirror, windows: Callable[..., Window]) -> None:
    page = windows(town).open("#/catalogue")
    page.get_by_role("searchbox").fill("redis:7")
    found = page.get_by_role("region", name="Images").locator("tbody tr")
    assert_that(found).to_have_count(1)
    assert_that(found).to_contain_text("docker.io/library/redis:7")
    page.get_by_role("searchbox").fill("redis:8")
    assert_that(page.get_by_text("No image here has such a name.")).to_be_visible()
    assert found.count() == 0


def test_an_image_shows_history_and_referrers(
    hub: FakeRegistry, town: Mirror, windows: Callable[..., Window]
) -> None:
    hub.push("library/redis", image(9), ["7"])
    page = windows(town).open("#/image/docker.io/library/redis:7")
    referrers = page.get_by_role("region", name="Referrers")
    assert_that(referrers).to_contain_text("application/vnd.example.signature")
    page.get_by_role("button", name="Refresh").click()
    confirm(page, "Refresh")
    assert_that(page.get_by_text("The tag has moved to")).to_be_visible()
    history = page.get_by_role("region", name="History of the tag").locator("tbody tr")
    assert_that(history).to_have_count(2)
    assert_that(history.nth(1)).to_contain_text(REDIS.digest[:19])
    assert image(9).digest[:19] in history.nth(0).inner_text()


def test_what_others_wrote_stays_text(
    hub: FakeRegistry, town: Mirror, windows: Callable[..., Window]
) -> None:
    markup = "<img src=x onerror=document.title=1><script>document.title=2</script>"
    hub.push("library/alpine", artifact(ALPINE, artifact_type=markup))
    assert town.get(f"/v2/library/alpine/referrers/{ALPINE.digest}").status == 200
    page = windows(town).open("#/image/docker.io/library/alpine:3.20")
    assert_that(page.get_by_role("region", name="Referrers")).to_contain_text(markup)
    assert_that(page.locator("main img, main script")).to_have_count(0)
    assert_that(page).to_have_title("docker.io/library/alpine:3.20 – Mirror")  # noqa: RUF001 -- a dash


# --- what can be done ------------------------------------------------------------------------


def test_an_image_is_pinned_unpinned_and_purged(
    town: Mirror, windows: Callable[..., Window]
) -> None:
    window = windows(town)
    page = window.open("#/image/docker.io/library/alpine:3.20")
    page.get_by_role("button", name="Pin", exact=True).click()
    page.get_by_label("linux/amd64").check()
    window.shoot("pin")
    confirm(page, "Pin")
    assert_that(page.get_by_text("It is pinned")).to_be_visible()
    assert pins(town) == {"docker.io/library/alpine:3.20": ["linux/amd64"]}
    page.get_by_role("button", name="Purge").click()
    assert_that(page.get_by_text("A pin keeps it")).to_be_visible()
    page.get_by_role("button", name="Unpin").click()
    confirm(page, "Unpin")
    assert_that(page.get_by_role("button", name="Pin", exact=True)).to_be_visible()
    assert pins(town) == {}
    page.get_by_role("button", name="Purge").click()
    window.shoot("purge")
    assert window.barriers() == []
    confirm(page, "Cancel")
    assert has(town, "library/alpine", "3.20")
    page.get_by_role("button", name="Purge").click()
    confirm(page, re.compile("Purge, and free"))
    assert_that(page.get_by_role("heading", level=1)).to_have_text("docker.io/library/alpine")
    assert not has(town, "library/alpine", "3.20")


def test_an_image_is_prefetched(town: Mirror, windows: Callable[..., Window]) -> None:
    assert not town.blob_file(ARM.blobs[1].digest).exists()
    window = windows(town)
    page = window.open("#/image/docker.io/library/alpine:3.20")
    page.get_by_role("button", name="Prefetch").click()
    page.get_by_label("linux/arm64").check()
    confirm(page, "Prefetch")
    assert_that(page.get_by_text("It is being fetched")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    row = page.get_by_role("region", name="Prefetches").locator("tbody tr")
    assert_that(row).to_contain_text("done")
    assert_that(row).to_contain_text("1 of 1")
    window.shoot("prefetch")
    assert window.barriers() == []
    assert town.blob_file(ARM.blobs[1].digest).exists()


def pins(mirror: Mirror) -> dict[str, list[str]]:
    content: Any = json.loads(oci.request(f"{mirror.admin_url}/api/v1/cache/pins").body)
    return {each["image"]: each["platforms"] for each in content["pins"]}


def has(mirror: Mirror, repository: str, tag: str) -> bool:
    url = f"{mirror.admin_url}/api/v1/cache/image?ref={repository}:{tag}"
    return oci.request(url).status == 200


# --- requests and clients --------------------------------------------------------------------


def test_requests_come_in_live_and_are_explained(
    town: Mirror, windows: Callable[..., Window]
) -> None:
    window = windows(town)
    page = window.open("#/requests")
    page.get_by_role("searchbox").fill("manifest redis latest")
    assert_that(page.get_by_text("No request is like that.")).to_be_visible()
    town.get("/v2/library/redis/manifests/latest")
    rows = page.get_by_role("region", name="Requests").locator("tbody tr")
    assert_that(rows).to_have_count(1)
    assert_that(rows).to_contain_text("404")
    page.get_by_role("searchbox").fill("manifest redis:7")
    assert_that(rows).to_have_count(2)
    rows.first.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    assert_that(dialog).to_contain_text("serve it")
    window.shoot("request")
    assert window.barriers() == []
    dialog.get_by_role("link", name="Open the image").click()
    assert_that(page.get_by_role("heading", level=1)).to_have_text("docker.io/library/redis:7")


def test_files_for_clients_are_for_the_address_of_the_page(
    town: Mirror, windows: Callable[..., Window]
) -> None:
    page = windows(town).open("#/clients")
    address = page.get_by_label("Address by which clients reach this mirror")
    assert_that(address).to_have_value(re.compile(rf"127\.0\.0\.1:{town.port}$"))
    assert_that(page.locator("#client-containerd pre").first).to_contain_text(town.url)
    page.locator("#client-docker summary").click()
    assert_that(page.locator("#client-docker pre").first).to_contain_text("registry-mirrors")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#client-docker").get_by_role("button", name="Copy").first.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert json.loads(copied)["registry-mirrors"] == [town.url]


# --- access, frame, keys ---------------------------------------------------------------------


def open_to_others(mirror: Mirror, **access: object) -> None:
    mirror.stop()
    port = mirror.admin_url.rpartition(":")[2]
    where = {"listen": f"127.0.0.1:{mirror.port}", "admin_listen": f"0.0.0.0:{port}"}
    mirror.configure(server={**where, **access})
    mirror.start()


def test_the_token_is_asked_for_where_it_is_needed(
    start_mirror: StartMirror, tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    mirror = start_mirror({"docker.io": {}})
    open_to_others(mirror, admin={"token_file": str(tmp_path / "token")})
    window = Window(browser, f"{mirror.admin_url}/")
    page = window.open("#/catalogue")
    token = page.get_by_label("Admin token, or password")
    window.shoot("token")
    assert window.barriers() == []
    token.fill("wrong")
    token.press("Enter")
    assert_that(page.get_by_text("That is not the admin token.")).to_be_visible()
    page.get_by_label("Admin token, or password").fill(TOKEN)
    page.keyboard.press("Enter")
    assert_that(page.get_by_text("The cache is empty.")).to_be_visible()
    assert_that(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    assert TOKEN not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie")
    page.reload()
    assert_that(page.get_by_text("The cache is empty.")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    assert_that(page.get_by_label("Admin token, or password")).to_be_visible()
    # A refused request is an error of the console, and the only one there may be.
    assert {fault for fault in window.faults if "401" not in fault} == set()
    window.close()


def test_who_may_only_look_looks(
    hub: FakeRegistry, start_mirror: StartMirror, tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "tokens").write_text("eve:0123456789abcdef-eve\n", encoding="utf-8")
    (tmp_path / "tokens").chmod(0o600)
    mirror = start_mirror({"docker.io": {"endpoints": [hub.url]}})
    pull(mirror, "library/redis", "7")
    rules = [{"who": "user:eve", "pull": ["**"], "admin": "read"}]
    tokens = {"file": str(tmp_path / "tokens")}
    open_to_others(mirror, auth={"tokens": tokens, "rules": rules, "allow_plaintext": True})
    window = Window(browser, f"{mirror.admin_url}/")
    page = window.open("#/image/docker.io/library/redis:7")
    page.get_by_label("User, only with a password").fill("eve")
    page.get_by_label("Admin token, or password").fill("0123456789abcdef-eve")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Purge").click()
    assert_that(page.get_by_text("eve has not the role 'write'")).to_be_visible()
    assert {fault for fault in window.faults if "401" not in fault and "403" not in fault} == set()
    window.close()


def test_it_works_below_a_path(
    town: Mirror, loop_thread: LoopThread, windows: Callable[..., Window]
) -> None:
    proxy = Below(loop_thread, free_port(), town.admin_url)
    proxy.start()
    try:
        page = windows(f"{proxy.url}/ops/mirror/").open("#/")
        assert_that(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        page.get_by_role("link", name="Catalogue").click()
        page.get_by_role("link", name="docker.io/library/redis").click()
        assert_that(page.get_by_role("link", name="7", exact=True)).to_be_visible()
        assert page.url.startswith(f"{proxy.url}/ops/mirror/#/catalogue/")
    finally:
        proxy.stop()


def test_the_keyboard_leads_everywhere(town: Mirror, windows: Callable[..., Window]) -> None:
    page = windows(town).open("#/")
    heading = page.get_by_role("heading", level=1)
    for key, title in {"c": "Catalogue", "r": "Requests", "u": "How to use me"}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        assert_that(heading).to_have_text(title)
    page.keyboard.press("?")
    assert_that(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    assert_that(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Colours: as the system").click()
    assert_that(page.locator("html")).to_have_attribute("data-theme", "light")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"


def test_a_mirror_that_goes_away_and_comes_back(
    town: Mirror, windows: Callable[..., Window]
) -> None:
    window = windows(town)
    page = window.open("#/")
    assert_that(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    town.stop()
    assert_that(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_visible()
    town.start()
    assert_that(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    refused = [fault for fault in window.faults if "ERR_" in fault or "503" in fault]
    assert refused, "the page did not notice"
    window.faults = [fault for fault in window.faults if fault not in refused]
