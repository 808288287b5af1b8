"""Log lines: one for an event, no secret in it, and nothing that breaks out of it."""

import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror import config
from mirror.observe.logs import REDACTED, Format, chosen, configure, get_logger, redact_text
from mirror.settings import Log

SECRET = "canary-4711"


def only(lines: io.StringIO) -> dict[str, Any]:
    (line,) = lines.getvalue().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize(
    "facts",
    [
        {"authorization": f"Basic {SECRET}"},
        {"password": SECRET},
        {"upstream_token": SECRET},
        {"headers": {"Authorization": SECRET, "Cookie": SECRET}},
        {"nested": [{"secret": SECRET}]},
        {"url": f"https://user:{SECRET}@cdn.example/x"},
        {"url": f"https://cdn.example/x?X-Amz-Signature={SECRET}"},
        {"text": f"sent Authorization: Bearer {SECRET}"},
        {"text": f"grant_type=password&password={SECRET}"},
        {"body": f'{{"token": "{SECRET}"}}'},
    ],
    ids=str,
)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_s19_no_secret_gets_into_a_line(facts: dict[str, Any], log_format: Format) -> None:
    lines = io.StringIO()
    configure(log_format, "info", lines)
    get_logger("test").info("event", **facts)

    assert SECRET not in lines.getvalue()
    assert REDACTED in lines.getvalue()


def test_the_facts_are_there(log_lines: io.StringIO) -> None:
    get_logger("test").warning("a thing", count=3, name="x", ratio=0.5, big=10**30)

    line = only(log_lines)
    assert (line["event"], line["level"], line["count"], line["name"]) == (
        "a thing",
        "warning",
        3,
        "x",
    )
    assert line["ratio"] == 0.5
    assert "timestamp" in line


def test_libraries_log_in_the_same_form(log_lines: io.StringIO) -> None:
    logging.getLogger("some.library").error("could not %s", "do it")
    assert only(log_lines)["event"] == "could not do it"


def test_an_exception_shows_no_variables(log_lines: io.StringIO) -> None:
    hidden = SECRET
    try:
        int(hidden[:6] + "!")
    except ValueError:
        get_logger("test").exception("it failed")

    line = only(log_lines)
    assert "ValueError: invalid literal" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_a_level_is_a_floor() -> None:
    lines = io.StringIO()
    configure("json", "warning", lines)
    get_logger("test").info("quiet")
    assert lines.getvalue() == ""


def test_a_terminal_gets_what_people_read_where_no_format_is_configured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mirror.yaml"
    file.write_text("log: {level: info}")
    assert chosen(Log(level="debug")) == ("json", "debug")
    person, ours = os.openpty()
    with os.fdopen(person), os.fdopen(ours, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert chosen(Log(level="debug")) == ("console", "debug")
        assert chosen(Log(format="json")) == ("json", "info")
        for environ, found in (({"MIRROR_LOG__FORMAT": "json"}, "json"), ({}, "console")):
            assert chosen(config.load(file, environ).settings.log) == (found, "info")


@given(st.text(max_size=60), st.sampled_from(["json", "console"]))
def test_s19_nothing_breaks_out_of_its_line(text: str, log_format: Format) -> None:
    lines = io.StringIO()
    configure(log_format, "info", lines)
    get_logger("test").info("event", user_agent=text)

    assert len(lines.getvalue().split("\n")) == 2
    assert "\x1b" not in lines.getvalue()
    assert "\r" not in lines.getvalue()


@given(st.text(max_size=60))
def test_redaction_never_fails(text: str) -> None:
    assert isinstance(redact_text(text), str)
