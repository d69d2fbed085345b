"""Images and files as content parts."""

import base64

import pytest

from batchrun.core.request.attachment import Attachment, attached, image_type
from batchrun.errors import RowError

PNG = b"\x89PNG\r\n\x1a\n...."
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "
FILES = {
    "a.png": PNG,
    "b.bin": PNG,
    "c.bmp": b"BM",
    "d": b"secret",
    "r/e.pdf": b"%PDF-1.7",
    "f.txt": b"hi",
}


def _read(path):
    if path not in FILES:
        message = f"cannot read {path}"
        raise RowError(message)
    return FILES[path]


def _url(data, mime):
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _images(value):
    return [part["image_url"]["url"] for part in Attachment("image", "photo").parts(value, _read)]


def _files(value):
    parts = Attachment("file", "doc").parts(value, _read)
    return [(part["file"]["filename"], part["file"]["file_data"]) for part in parts]


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        (None, []),
        ("", []),
        ({"bytes": None, "path": None}, []),
        ([], []),
        ("https://a.example/x?y=1", ["https://a.example/x?y=1"]),
        ("HTTP://a.example/x", ["HTTP://a.example/x"]),
        ("data:image/png;base64,AAAA", ["data:image/png;base64,AAAA"]),
        ("a.png", [_url(PNG, "image/png")]),
        ("b.bin", [_url(PNG, "image/png")]),
        ("c.bmp", [_url(b"BM", "image/bmp")]),
        (PNG, [_url(PNG, "image/png")]),
        ({"bytes": WEBP, "path": "x.png"}, [_url(WEBP, "image/webp")]),
        ({"bytes": None, "path": "a.png"}, [_url(PNG, "image/png")]),
        ({"path": "https://a.example/x"}, ["https://a.example/x"]),
        ([PNG, None, "https://a.example/x"], [_url(PNG, "image/png"), "https://a.example/x"]),
    ],
)
def test_images(value, urls):
    """URLs as they are, content as a data URL of its type, null as nothing."""
    assert _images(value) == urls


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("d", "the file d is no image"),
        (b"plain", "column 'photo' is no image"),
        ("gone.png", "gone.png"),
        (7, "a number"),
        ({"url": "x"}, "column 'photo' holds"),
        (RowError("too early"), "too early"),
    ],
)
def test_what_is_no_image_is_a_bad_row(value, words):
    """It says which file or column, and what could stand there."""
    with pytest.raises(RowError, match=words):
        _images(value)


@pytest.mark.parametrize(
    ("value", "files"),
    [
        ("r/e.pdf", [("e.pdf", _url(b"%PDF-1.7", "application/pdf"))]),
        ("f.txt", [("f.txt", _url(b"hi", "text/plain"))]),
        ("d", [("d", _url(b"secret", "application/octet-stream"))]),
        (b"%PDF-1.4", [("doc", _url(b"%PDF-1.4", "application/pdf"))]),
        ({"bytes": b"hi", "path": "x/n.csv"}, [("n.csv", _url(b"hi", "text/csv"))]),
        ("https://a.example/p/q.pdf?z=1", [("q.pdf", "https://a.example/p/q.pdf?z=1")]),
        ("data:text/plain,hi", [("doc", "data:text/plain,hi")]),
        (None, []),
    ],
)
def test_files(value, files):
    """A file part has a name and its content as a data URL."""
    assert _files(value) == files


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (WEBP, "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"", None),
    ],
)
def test_image_types_by_their_first_bytes(head, mime):
    """The four kinds that every server takes."""
    assert image_type(head) == mime


def test_parts_stand_behind_the_text_of_the_users_last_message():
    """Text becomes a part; blank text goes; the messages that came in are not changed."""
    part = {"type": "image_url", "image_url": {"url": "u"}}
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "second", "name": "n"},
        {"role": "assistant", "content": "third"},
    ]
    made = attached(messages, [part])
    text = {"type": "text", "text": "second"}
    assert made[1] == {"role": "user", "content": [text, part], "name": "n"}
    assert [made[0], made[2]] == [messages[0], messages[2]]
    assert messages[1]["content"] == "second"
    assert attached([{"role": "user", "content": " "}], [part])[0]["content"] == [part]
    assert attached([{"role": "user", "content": [text]}], [part])[0]["content"] == [text, part]
    assert attached(messages, []) is messages
