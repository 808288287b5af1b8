"""``mirror cache export`` and ``import``: files, compression and signatures."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import mirror_of
from tests.unit.cli.threads import in_thread

ONE = image(1)
NAME = "docker.io/library/alpine:one"


def configured(directory: Path, name: str) -> tuple[str, ...]:
    file = directory / f"{name}.yaml"
    file.write_text(f"cache: {{directory: {directory / name}, min_free: 0, max_size: 512MiB}}\n")
    (directory / name).mkdir(exist_ok=True)
    (directory / name / "VERSION").touch()
    return "--config", str(file)


@pytest.fixture
async def outside(tmp_path: Path, upstream: FakeRegistry) -> tuple[str, ...]:
    upstream.push("library/alpine", ONE, ["one"])
    async with mirror_of(tmp_path / "outside", {"docker.io": upstream}) as up:
        await up.get("/v2/library/alpine/manifests/one")
        await up.pull_blobs("library/alpine", ONE)
    return configured(tmp_path, "outside")


def leftovers(directory: Path) -> list[Path]:
    return list(directory.glob(".*.part"))


def keys(directory: Path, name: str) -> tuple[str, str]:
    """Write a pair of keys as openssl does; returns their files."""
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    shown = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, shown))
    return str(private), str(public)


async def test_files_of_all_kinds_are_read_and_the_same_each_time(
    tmp_path: Path, outside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    for number, ending in enumerate(("tar", "tar.gz", "tar.zst")):
        one, two = (tmp_path / f"{name}.{ending}" for name in ("one", "two"))
        for file in (one, two):
            assert await in_thread("cache", "export", "alpine:one", str(file), *outside) == 0
        assert one.read_bytes() == two.read_bytes()
        inside = configured(tmp_path, f"inside-{number}")
        capfd.readouterr()
        assert await in_thread("cache", "import", str(one), *inside, "-o", "json") == 0
        assert json.loads(capfd.readouterr().out)["new_objects"] == 1 + len(ONE.blobs)
        assert await in_thread("cache", "ls", *inside) == 0
        assert NAME in capfd.readouterr().out
        if ending != "tar":
            content = one.read_bytes()
            one.write_bytes(content[: len(content) // 2])
            assert await in_thread("cache", "import", str(one), *inside) == 1
    assert not leftovers(tmp_path)


async def test_a_spoilt_file_is_a_bundle_that_is_not_taken(
    tmp_path: Path, outside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    for ending in ("tar.gz", "tar.zst"):
        file = tmp_path / f"one.{ending}"
        assert await in_thread("cache", "export", "alpine:one", str(file), *outside) == 0
        content = bytearray(file.read_bytes())
        content[len(content) // 2 :] = b"\xff" * len(content[len(content) // 2 :])
        file.write_bytes(content)
        capfd.readouterr()
        inside = configured(tmp_path, f"inside-{ending}")
        assert await in_thread("cache", "import", str(file), *inside) == 1
        assert f"{file} is corrupt" in capfd.readouterr().err


async def test_a_signature_is_checked_before_anything_is_entered(
    tmp_path: Path, outside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    private, public = keys(tmp_path, "mine")
    _, other = keys(tmp_path, "other")
    signed, plain = str(tmp_path / "signed.tar.zst"), str(tmp_path / "plain.tar")
    assert await in_thread("cache", "export", "--all", signed, "--sign-key", private, *outside) == 0
    assert await in_thread("cache", "export", "--all", plain, *outside) == 0
    inside = configured(tmp_path, "inside")
    for file, key, said in (
        (signed, other, "another key"),
        (plain, public, "not signed"),
        (signed, private, "not an Ed25519 public key"),
    ):
        capfd.readouterr()
        assert await in_thread("cache", "import", file, "--verify-key", key, *inside) == 1
        assert said in capfd.readouterr().err
    assert not [each for each in (tmp_path / "inside" / "blobs").rglob("*") if each.is_file()]
    assert await in_thread("cache", "import", signed, "--verify-key", public, *inside) == 0
    assert await in_thread("cache", "import", signed, *inside) == 0
    assert "was not checked" in capfd.readouterr().err
    wrong = ("cache", "export", "--all", signed, "--sign-key", public, *outside)
    assert await in_thread(*wrong) == 1
    assert "openssl" in capfd.readouterr().err


async def test_the_signature_is_one_that_openssl_checks(
    tmp_path: Path, outside: tuple[str, ...]
) -> None:
    private, public = keys(tmp_path, "mine")
    file = tmp_path / "signed.tar"
    wish = ("cache", "export", "--all", str(file), "--sign-key", private, *outside)
    assert await in_thread(*wish) == 0
    for command in (
        ("tar", "-xf", str(file), "-C", str(tmp_path)),
        (
            *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"),
            *("-in", str(tmp_path / "mirror-bundle.json")),
            *("-sigfile", str(tmp_path / "mirror-bundle.json.sig")),
        ),
    ):
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0


async def test_what_is_wrong_is_said(
    tmp_path: Path, outside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    junk, inventory = tmp_path / "junk.tar", tmp_path / "inventory.json"
    junk.write_bytes(b"x" * 5000)
    inventory.write_text("{}")
    for arguments, code, said in (
        (("import", str(tmp_path / "none.tar")), 2, "No such file"),
        (("import", str(junk)), 1, "nothing of it was entered"),
        (("export", "--all", str(tmp_path / "x.zip")), 1, ".tar.zst"),
        (("export", str(tmp_path / "x.tar")), 2, "--all"),
        (("export", "alpine:none", str(tmp_path / "x.tar")), 1, "mirror prefetch"),
        (("export", "--missing-in", str(inventory), str(tmp_path / "x.tar")), 1, "inventory"),
    ):
        capfd.readouterr()
        assert await in_thread("cache", *arguments, *outside) == code, arguments
        assert said in capfd.readouterr().err
    assert not (tmp_path / "x.tar").exists()
    assert not leftovers(tmp_path)


async def test_an_inventory_leaves_out_what_is_there(
    tmp_path: Path, outside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert await in_thread("cache", "inventory", *outside) == 0
    inventory = tmp_path / "inventory.json"
    inventory.write_text(capfd.readouterr().out)
    file = str(tmp_path / "x.tar")
    wish = ("cache", "export", "--missing-in", str(inventory), file, *outside, "-o", "json")
    assert await in_thread(*wish) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["objects"], facts["carried_objects"], facts["carried_bytes"]) == (4, 0, 0)
