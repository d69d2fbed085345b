"""Images, sound and files in an answer, wherever a server puts them."""

import base64
import json

import pytest

from batchrun.core.reply import answer
from batchrun.core.reply import completion as reading
from batchrun.core.reply.fast_completion import plain_completion
from batchrun.core.stream.fold import fold
from batchrun.records import Media

BYTES = b"\x89PNG and more"
TEXT = base64.b64encode(BYTES).decode()
URL = f"data:image/png;base64,{TEXT}"


def _read(message):
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    found = reading.completion(reading.parse(body))
    quick = plain_completion(body)
    assert quick is None or quick[0] == found
    return found


@pytest.mark.parametrize(
    ("message", "media"),
    [
        ({"images": [{"type": "image_url", "image_url": {"url": URL}}]},
         Media("image", "image/png", BYTES)),
        ({"content": "Here", "images": [URL]}, Media("image", "image/png", BYTES)),
        ({"images": [{"b64_json": TEXT}]}, Media("image", None, BYTES)),
        ({"images": [{"url": "https://host/a.png"}]},
         Media("image", None, None, "https://host/a.png")),
        ({"audio": {"id": "a", "data": TEXT, "transcript": "hi"}}, Media("audio", None, BYTES)),
        ({"audio": {"data": TEXT, "format": "wav"}}, Media("audio", "audio/wav", BYTES)),
        ({"video": {"url": "https://host/a.mp4"}}, Media("video", None, None, "https://host/a.mp4")),
        ({"content": [{"type": "text", "text": "x"}, {"type": "output_image", "image_url": URL}]},
         Media("image", "image/png", BYTES)),
        ({"content": [{"type": "image", "source":
          {"type": "base64", "media_type": "image/jpeg", "data": TEXT}}]},
         Media("image", "image/jpeg", BYTES)),
        ({"content": [{"inline_data": {"mime_type": "image/webp", "data": TEXT}}]},
         Media("image", "image/webp", BYTES)),
        ({"content": [{"type": "input_audio", "input_audio": {"data": TEXT, "format": "mp3"}}]},
         Media("audio", "audio/mp3", BYTES)),
        ({"images": [{"type": "image_url", "image_url": {"url": URL.rstrip("=")}}]},
         Media("image", "image/png", BYTES)),
        # It cannot be read, and is an answer all the same
        ({"images": [{"pixels": [1, 2, 3]}]}, Media("image", None, None)),
    ],
)  # fmt: skip
def test_where_media_stand(message, media):
    """Kind, media type and bytes, or the address; and such an answer is not empty."""
    found = _read(message)
    assert found.media == (media,)
    assert not answer.is_empty(found)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "text"},
        {"images": [], "audio": None, "content": "text"},
        {"audio": {}, "content": ""},
        {"audio": {"id": "a", "expires_at": 1}},
        {"content": [{"type": "text", "text": f"see {URL}"}]},
        {"content": URL},
        {"images": [{"type": "image_url", "image_url": {"url": ""}}], "content": None},
    ],
)
def test_what_is_no_medium(message):
    """Empty containers hold none, and a text that quotes one is a text."""
    assert _read(message).media is None


def test_spoken_words_are_the_content():
    """An answer in sound has its words as its text, where it has no other."""
    spoken = {"audio": {"id": "a", "data": TEXT, "transcript": "Hello."}}
    assert _read({"content": None} | spoken).first.content == "Hello."
    assert _read({"content": "Hi."} | spoken).first.content == "Hi."
    only = _read({"content": None, "audio": {"id": "a", "transcript": "Hello."}})
    assert only.media is None and not answer.is_empty(only)


def test_media_of_a_stream():
    """Folded, they are those of the plain reply: an image in one piece, sound in many."""
    deltas = [
        {"role": "assistant", "content": "Here"},
        {"images": [{"type": "image_url", "index": 0, "image_url": {"url": URL}}]},
        {"audio": {"id": "a", "data": TEXT[:8]}},
        {"audio": {"data": TEXT[8:], "transcript": "he"}},
        {"audio": {"transcript": "llo"}},
    ]
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    found = reading.completion(reading.parse(fold(data + b"data: [DONE]\n\n").body()))
    assert found.media == (Media("image", "image/png", BYTES), Media("audio", None, BYTES))
    assert found.first.content == "Here"
