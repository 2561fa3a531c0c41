"""The tags at the end of descriptions."""

import pytest

from vpsbackups_async._tags import (
    check_marker,
    job_of,
    marker_of,
    new_marker,
    same,
    text_before_cut,
    text_of,
    with_marker,
)


@pytest.mark.parametrize(
    ("description", "text", "marker"),
    [
        ("", "", None),
        ("Nightly", "Nightly", None),
        (" Nightly ", "Nightly", None),
        ("Nightly [vb:7f3a2c91]", "Nightly", "7f3a2c91"),
        ("Nightly[vb:7f3a2c91] ", "Nightly", "7f3a2c91"),
        ("[vb:7f3a2c91]", "", "7f3a2c91"),
        ("Nightly [keep] [job:web] [vb:1]", "Nightly", "1"),
        ("Nightly [vb:1] [keep:2027-01-01]", "Nightly", "1"),
        ("Nightly [vb:1] [vb:2]", "Nightly", "2"),
        ("NIGHTLY [VB:7F3A]", "NIGHTLY", "7F3A"),
        ("Nightly [vb:a.b_c/d:e+f@g=h-i]", "Nightly", "a.b_c/d:e+f@g=h-i"),
        # Not tags: in the middle, of an unknown name, or not well formed.
        ("[vb:1] Nightly", "[vb:1] Nightly", None),
        ("Nightly [v:1]", "Nightly [v:1]", None),
        ("Nightly [vb]", "Nightly", None),
        ("Nightly [vb:]", "Nightly [vb:]", None),
        ("Nightly [vb:a b]", "Nightly [vb:a b]", None),
        ("Nightly [vb:1] [draft]", "Nightly [vb:1] [draft]", None),
        ("[vb:" + "a" * 65 + "]", "[vb:" + "a" * 65 + "]", None),
    ],
)
def test_tags_stand_at_the_end_of_the_text(description: str, text: str, marker: str | None) -> None:
    assert text_of(description) == text
    assert marker_of(description) == marker


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ("Nightly [", "Nightly"),
        ("Nightly [v", "Nightly"),
        ("Nightly [vb", "Nightly"),
        ("Nightly [vb:", "Nightly"),
        ("Nightly [vb:db43", "Nightly"),
        ("Nightly [job:nig", "Nightly"),
        ("NIGHTLY [KEE", "NIGHTLY"),
        ("Nightly [keep] [job:web] [vb:1", "Nightly"),
        ("[vb:1", ""),
        # No tag that was cut off: nothing was, it is none of ours, or it is part of a word.
        ("", None),
        ("Nightly", None),
        ("Nightly [vb:1]", None),
        ("Nightly [draft", None),
        ("Nightly [vbox", None),
        ("Nightly [vb:a b", None),
        ("Nightly [vb:" + "a" * 65, None),
        ("Nightly[vb:1", None),
        ("[vb:1 Nightly", None),
    ],
)
def test_a_tag_that_was_cut_off_at_the_end_leaves_the_text_before_it(
    description: str, text: str | None
) -> None:
    assert text_before_cut(description) == text


@pytest.mark.parametrize(
    ("description", "marked"),
    [
        (None, "[vb:1]"),
        ("", "[vb:1]"),
        ("Nightly", "Nightly [vb:1]"),
        ("Nightly [vb:2]", "Nightly [vb:1]"),
        ("Nightly [job:web] [keep]", "Nightly [job:web] [keep] [vb:1]"),
        ("Nightly [draft]", "Nightly [draft] [vb:1]"),
    ],
)
def test_a_description_has_one_marker(description: str | None, marked: str) -> None:
    assert with_marker(description, "1") == marked
    assert marker_of(marked) == "1"


def test_new_markers_differ_and_fit_into_a_tag() -> None:
    markers = {new_marker() for _ in range(100)}
    assert len(markers) == 100
    assert all(check_marker(marker) == marker for marker in markers)


@pytest.mark.parametrize("marker", ["", "a b", "a]", "ü", "a" * 65, "a\n", 7, None])
def test_a_marker_that_does_not_fit_into_a_tag_is_refused(marker: object) -> None:
    with pytest.raises(ValueError, match="marker must be") as caught:
        check_marker(marker)
    assert repr(marker) in str(caught.value)


def test_values_of_tags_are_the_same_in_any_case() -> None:
    assert same("Job-A", "job-a")
    assert same(None, None)
    assert not same("a", "b")
    assert not same("a", None)
    assert job_of("Nightly [job:web] [vb:1]") == "web"
    assert job_of("Nightly [job]") is None


def test_a_description_of_a_million_tags_is_read_at_once() -> None:
    text = "[keep]" * 1_000_000
    assert marker_of(text) is None
    assert text_of(text).startswith("[keep]")
