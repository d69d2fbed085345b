"""Prompt tokens: every text of a body is counted, by bytes within the stated error."""

import pytest

from batchrun.core.estimate import vocabulary
from batchrun.core.estimate.prompt_tokens import MESSAGE_TOKENS, PRIMING_TOKENS, prompt
from batchrun.core.estimate.scripts_of_text import CLASSES, byte_counts
from batchrun.core.estimate.token_table import ERRORS, RATES, STAND_IN, UNKNOWN_MODEL
from batchrun.core.estimate.vocabulary import Counted
from tests.harness.slow import rest_slow

TEXTS = {
    "letters": (
        "Read the review below and say in one word whether its writer was content. If the review "
        "names a product, give the name as well, as it is written on the manufacturer's page."
    ),
    "cyrillic": "Прочитайте отзыв и скажите одним словом, доволен ли покупатель товаром.",
    "greek": "Διαβάστε την κριτική και πείτε με μία λέξη αν ο πελάτης ήταν ικανοποιημένος.",
    "han": "请阅读下面的评论,用一个词说明顾客是否满意,并写出产品的名称和购买的日期。",
    "kana": "レビューをよんで、おきゃくさまがまんぞくしているかをひとことでこたえてください。",
    "hangul": "아래 리뷰를 읽고 고객이 만족했는지 한 단어로 답하고 제품의 이름도 적어 주세요.",
    "thai": "อ่านรีวิวด้านล่างแล้วบอกด้วยคำเดียวว่าลูกค้าพอใจหรือไม่ และเขียนชื่อสินค้าด้วย",
    "devanagari": "नीचे दी गई समीक्षा पढ़ें और एक शब्द में बताएं कि ग्राहक संतुष्ट था या नहीं।",
    "hebrew": "קרא את הביקורת ואמור במילה אחת אם הלקוח היה מרוצה מהמוצר ומהמשלוח.",
    "arabic": "اقرأ المراجعة أدناه وقل بكلمة واحدة ما إذا كان العميل راضيا عن المنتج.",
}


@pytest.mark.parametrize("script", TEXTS)
def test_bytes_are_told_apart(script):
    """All bytes are counted, once, and most of them as what they are."""
    counts = dict(zip(CLASSES, byte_counts(TEXTS[script]), strict=True))
    assert sum(counts.values()) == len(TEXTS[script].encode())
    assert counts[script] > 0.55 * sum(counts.values()), counts


def test_odd_text_is_counted():
    """Emoji, private characters and half surrogates add up like any other."""
    text = "a\ud800\U0001f600\ue000\t1!éΩя"
    counts = dict(zip(CLASSES, byte_counts(text), strict=True))
    assert sum(counts.values()) == len(text.encode("utf-8", "replace"))
    assert (counts["letters"], counts["space"], counts["digits"]) == (1, 1, 1)
    assert (counts["accented"], counts["greek"], counts["cyrillic"]) == (2, 2, 2)
    assert byte_counts("") == (0,) * len(CLASSES)


@pytest.mark.parametrize("script", TEXTS)
@pytest.mark.parametrize(
    "model", rest_slow(["gpt-4o", "mine", "llama-3.3-70b", "qwen3-8b", "deepseek-chat"], 2)
)
def test_by_bytes_is_right_within_its_error(model, script):
    """The interval by bytes holds what the tokenizer of the model counts; of an unknown model,
    what its stand-in does.
    """
    splintr = pytest.importorskip("splintr")
    own = vocabulary.of_model(model)
    encode = splintr.Tokenizer.from_pretrained(own or vocabulary.STANDARD).encode_ordinary
    text = TEXTS[script] * 5
    guess = vocabulary.by_bytes(own)(text)
    # The interval is meant for nine texts in ten: a twentieth beyond it is allowed.
    assert guess.low * 0.95 <= len(encode(text)) <= guess.high * 1.05, (guess, len(encode(text)))


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("openai/gpt-4.1", "o200k_base"),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", "o200k_base"),
        ("o3", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen3"),
        ("deepseek-reasoner", "deepseek_v3"),
        ("mistral-small-latest", "mistral_v3"),
        ("google/gemma-3-27b-it", "gemma3"),
        ("claude-sonnet-4", None),
        ("o365", None),
        ("llama-2-7b", None),
        ("", None),
    ],
)
def test_vocabularies_by_model(model, known):
    """A model's name tells its vocabulary, or nothing."""
    assert vocabulary.of_model(model) == known


def test_the_table_is_whole():
    """Every vocabulary has a rate and an error for every class."""
    assert RATES.keys() == ERRORS.keys()
    assert {found for _, found in vocabulary._MODELS} <= RATES.keys()
    for row in (*RATES.values(), *ERRORS.values(), UNKNOWN_MODEL, STAND_IN):
        assert len(row) == len(CLASSES)
    assert all(low < 1 < high for row in ERRORS.values() for low, high in row)


def test_a_stand_in_says_its_spread():
    """Another model's tokenizer gives an interval, the own one does not."""

    def encode(text):
        return list(range(len(text)))

    assert vocabulary.by_tokenizer(encode, own=True)("four") == Counted(4.0, 4.0, 4.0)
    found = vocabulary.by_tokenizer(encode, own=False)("four")
    assert found.tokens == 4.0 and found.low <= 4.0 < found.high


def letters(text):
    """One token a character."""
    return Counted(len(text), len(text), len(text))


def test_everything_that_is_sent_is_counted():
    """Messages, parts, names, tool calls, tools and schema; images and sound are told of."""
    body = {
        "messages": [
            {"role": "system", "content": "12345", "name": "ab"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "123"},
                    {"type": "image_url", "image_url": {"url": "data:..."}},
                    {"type": "input_audio", "input_audio": {}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
        ],
        "tools": [1],
        "response_format": {"type": "json_schema", "json_schema": {"a": 1}},
    }
    found = prompt(body, letters)
    text = len('12345ab123f{}[1]{"a":1}')
    framing = 3 * MESSAGE_TOKENS + 1 + PRIMING_TOKENS
    assert found.tokens == text + framing + 1500
    assert found.low == text + 150 and found.high == text + 2 * framing + 15_000
    assert found.unread == 2
