"""What an answer is held against, and what becomes of it."""

import itertools

import pytest

from batchrun.core.reply.answer import is_empty, is_truncated
from batchrun.core.schema.response_format import name_of, of_document, schema_of
from batchrun.core.verdict.answer_checks import Asked, Policy, flaw_of, held_against, made_of
from batchrun.core.verdict.judge import Action, Verdict
from batchrun.errors import NotASchemaError, RowError
from batchrun.records import Choice, Completion, ToolCall, Usage

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "maximum": 5}},
    "required": ["score"],
}
OPENAI = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
WEATHER = {"name": "weather", "parameters": {"type": "object", "required": ["city"],
           "properties": {"city": {"type": "string"}}, "additionalProperties": False}}  # fmt: skip


def choice(content='{"score":3}', finish="stop", *, calls=None, refusal=None, index=0, why=None):
    """One choice; ``calls`` are names and arguments of tools."""
    made = calls and tuple(ToolCall("c", "function", *call) for call in calls)
    return Choice(index, content, why, refusal, finish, made, None)


def completion(*choices):
    """A completion of these choices."""
    several = choices if len(choices) > 1 else None
    return Completion(choices[0], several, "m", "id", None, None, None, Usage(7, 5, 12))


def expected(schema=SCHEMA, **more):
    """What a body with this schema asks for."""
    return Asked(**more)({"response_format": OPENAI | {"json_schema": {"schema": schema}}})


ANSWERS = {
    "fits": (choice(), None),
    "white space around": (choice(' {"score": 3}\n'), None),
    "wrong type": (choice('{"score":"3"}'), 'schema: score: "3" is not of type "integer"'),
    "too large": (choice('{"score":6}'), "score: 6 is greater than the maximum of 5"),
    "missing": (choice("{}"), '"score" is a required property'),
    "fenced": (choice('```json\n{"score":3}\n```'), "is in a Markdown fence"),
    "talk around it": (choice('Here: {"score":3}'), "is not JSON"),
    "two values": (choice('{"score":3}{"score":4}'), "is not JSON: trailing characters"),
    "NaN": (choice('{"score":NaN}'), "is not JSON"),
    "nothing": (choice(""), "empty where JSON was asked for"),
    "null": (choice(None, why="because"), "empty where JSON was asked for"),
    "a refusal": (choice(None, refusal="I will not."), None),
    "a tool call": (choice(None, "tool_calls", calls=[("f", "{}")]), None),
    "talk beside a tool call": (choice("Looking.", "tool_calls", calls=[("f", "{}")]), None),
    "cut off": (choice('{"sco', "length"), "cut off by a token limit"),
    "cut off and whole": (choice('{"score":3}', "length"), None),
    "filtered": (choice('{"sco', "content_filter"), "(finish_reason content_filter)"),
    "deep": (choice("[" * 100_000), "nested too deeply"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_to_a_schema(case):
    """What fits, a refusal and a tool call pass; the rest says where and why."""
    answer, said = ANSWERS[case]
    flaw = flaw_of(completion(answer), expected(), Policy())
    if said is None:
        assert flaw is None
    else:
        assert flaw.error_class == "invalid_output" and flaw.again
        assert said in flaw.message and len(flaw.message) < 600


FENCED = '```json\n{"score": 3}\n```'


@pytest.mark.parametrize(
    ("content", "made"),
    [
        (FENCED, '{"score": 3}'),
        (f"Here:\n{FENCED}\nDone.", '{"score": 3}'),
        ('{"score": 3}', '{"score": 3}'),
        ('{"why": "```json", "score": 3}', '{"why": "```json", "score": 3}'),
        (FENCED + "\n" + FENCED, None),
        ('```json\n{"score": \n```', None),
        ('```json\n{"score": 6}\n```', None),
    ],
)
def test_json_in_a_fence(content, made):
    """Accepted, it becomes the content and is held against the schema; else it is not JSON."""
    whole = completion(choice(content), choice(index=1))
    found = made_of(whole, expected(), Policy(accept_fenced=True))
    flaw = flaw_of(found, expected(), Policy())
    assert (flaw is None) == (made is not None)
    assert made is None or found.first.content == found.choices[0].content == made
    assert made_of(whole, None, Policy(accept_fenced=True)) is whole
    assert made_of(whole, expected(), Policy()) is whole


def test_what_has_another_answer_keeps_its_fence():
    """A tool call and a refusal are answers of another kind: their content is left alone."""
    for other in (choice(FENCED, calls=[("f", "{}")]), choice(FENCED, refusal="no")):
        whole = completion(other)
        assert made_of(whole, expected(), Policy(accept_fenced=True)) is whole


def test_the_verdict_has_what_the_policy_made():
    """The journal, the counts and the columns see the answer without its fence."""
    verdict = Verdict(Action.DONE, "completion", completion(choice(FENCED)))
    held = held_against(verdict, expected(), Policy(accept_fenced=True))
    assert (held.action, held.completion.first.content) == (Action.DONE, '{"score": 3}')


def test_every_choice_is_held_against_the_schema():
    """With several choices one wrong one is enough, and it is named by its index."""
    good, bad = choice(), choice("no", index=3)
    assert flaw_of(completion(good, choice(index=1)), expected(), Policy()) is None
    flaw = flaw_of(completion(good, bad), expected(), Policy())
    assert flaw.message.startswith("choice 3: the content is not JSON")


@pytest.mark.parametrize(
    ("content", "fits"), [('{"a":1}', True), ("[1]", True), ("nothing", False), ("", False)]
)
def test_json_without_a_schema_must_parse(content, fits):
    """``json_object`` alone asks for JSON of any kind."""
    asked = Asked()({"response_format": {"type": "json_object"}})
    assert (flaw_of(completion(choice(content)), asked, Policy()) is None) == fits


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (OPENAI, SCHEMA),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, None),
        ({"type": "json_object"}, None),
        ({"type": "text", "schema": SCHEMA}, None),
        ({"type": "structural_tag", "structures": []}, None),
        ("json", None),
        (None, None),
    ],
)
def test_where_servers_have_the_schema(given, found):
    """OpenAI's place, and the one that llama.cpp and Together read."""
    assert schema_of(given) == found


def test_a_body_that_asks_for_nothing_is_not_looked_at():
    """No response_format, ``text``, and switched off: nothing is expected."""
    assert Asked()({"messages": []}) is None
    assert Asked()({"response_format": {"type": "text"}}) is None
    assert Asked()({"response_format": None}) is None
    assert Asked(schemas=False)({"response_format": OPENAI}) is None
    assert Asked(schemas=False, tools=True)({"response_format": OPENAI}).json is False


def test_the_default_is_read_once_and_a_row_has_its_own():
    """The run's response_format is known by identity; a row's own one is read for itself."""
    asked = Asked(OPENAI)
    mine = {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}
    first, second = asked({"response_format": OPENAI}), asked({"response_format": OPENAI})
    assert first.schema is second.schema
    assert asked({"response_format": mine}).schema == b'{"type":"array"}'


def test_a_schema_that_is_none_makes_the_row_bad():
    """With what is wrong; a vendor's keyword is nothing wrong."""
    wrong = {"type": "json_schema", "json_schema": {"schema": {"properties": []}}}
    with pytest.raises(RowError, match=r"^schema of response_format is not a JSON Schema: at prop"):
        Asked()({"response_format": wrong})
    with pytest.raises(RowError, match="it is a list"):
        Asked()({"response_format": {"type": "json_schema", "schema": [1]}})
    vendor = {"type": "object", "x-order": ["a"], "nullable": True, "propertyOrdering": ["a"]}
    assert expected(vendor) is not None


CALLS = {
    "fits": ([("weather", '{"city":"Oslo"}')], None),
    "no arguments": ([("ping", "")], None),
    "no schema": ([("ping", '{"any":1}')], None),
    "unknown": ([("wheather", '{"city":"Oslo"}')], "offers no such tool; it offers weather, ping"),
    "no name": ([(None, "{}")], "offers no such tool"),
    "no JSON": ([("weather", '{"city":')], "the arguments are not JSON"),
    "no object": ([("ping", "[1]")], "they are not an object"),
    "missing": ([("weather", "{}")], '"city" is a required property'),
    "empty where some are needed": ([("weather", "")], '"city" is a required property'),
    "second": ([("ping", "{}"), ("weather", '{"city":1}')], "tool call 1 ('weather')"),
}


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("older", [False, True])
def test_tool_calls(case, older):
    """Arguments must fit the tool's parameters, by either protocol; the text is never changed."""
    calls, said = CALLS[case]
    functions = [WEATHER, {"name": "ping"}]
    wrapped = [{"type": "function", "function": function} for function in functions]
    body = {"functions": functions} if older else {"tools": wrapped}
    answer = completion(choice(None, "tool_calls", calls=calls))
    flaw = flaw_of(answer, Asked(tools=True)(body), Policy())
    assert flaw is None if said is None else said in flaw.message
    assert Asked()(body) is None


def test_free_text_tools_and_answers_without_a_call():
    """A custom tool's input is text; an answer that calls nothing is no matter of the tools."""
    body = {"tools": [{"type": "custom", "custom": {"name": "sql"}}, {"type": "web_search"}, "?"]}
    asked = Asked(tools=True)(body)
    call = ToolCall("c", "custom", "sql", "select 1")
    assert flaw_of(completion(choice()._replace(tool_calls=(call,))), asked, Policy()) is None
    assert flaw_of(completion(choice("hello")), asked, Policy()) is None
    other = call._replace(name="bash")
    assert flaw_of(completion(choice()._replace(tool_calls=(other,))), asked, Policy()) is not None


def test_parameters_that_are_no_schema_make_the_row_bad():
    """Only where tool calls are checked."""
    body = {"tools": [{"function": {"name": "f", "parameters": {"type": 1}}}]}
    with pytest.raises(RowError, match="parameters of tool 'f' are not a JSON Schema"):
        Asked(tools=True)(body)
    assert Asked()(body) is None


REASONS = ("length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded")


@pytest.mark.parametrize("reason", REASONS)
def test_every_spelling_of_a_cut(reason):
    """As OpenAI, Anthropic, Gemini and Mistral spell it."""
    assert is_truncated(completion(choice(finish=reason)))
    assert is_truncated(completion(choice(), choice(finish=reason)))


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "content_filter", None, "eos", ""])
def test_other_endings_are_no_cut(reason):
    """A model that stopped by itself, a filter, and servers that give no reason."""
    assert not is_truncated(completion(choice(finish=reason)))


@pytest.mark.parametrize(
    ("answer", "empty"),
    [
        (choice(""), True),
        (choice(None), True),
        (choice(" \n\t"), True),
        (choice("", why="I thought for long"), True),
        (choice("", refusal=""), True),
        (choice("0"), False),
        (choice(None, refusal="No."), False),
        (choice(None, calls=[("f", "{}")]), False),
    ],
)
def test_what_is_empty(answer, empty):
    """Reasoning alone is empty; a refusal and a tool call are not."""
    assert is_empty(completion(answer)) == empty
    assert is_empty(completion(choice(), answer)) == empty


@pytest.mark.parametrize(
    ("truncation", "empty"), [*itertools.product(("keep", "fail", "retry"), repeat=2)]
)
def test_the_policies(truncation, empty):
    """Kept is no flaw; else the class of its own, asked again only under ``retry``."""
    policy = Policy(truncation, empty)
    for answer, setting, error_class in (
        (choice("half", "length"), truncation, "truncated_output"),
        (choice(""), empty, "empty_output"),
    ):
        flaw = flaw_of(completion(answer), None, policy)
        if setting == "keep":
            assert flaw is None
        else:
            assert (flaw.error_class, flaw.again) == (error_class, setting == "retry")
    assert flaw_of(completion(choice()), None, policy) is None


def test_the_policies_come_before_the_schema():
    """What was cut off is a matter of --on-truncation first, and of the schema where it is kept."""
    cut = completion(choice('{"sco', "length"))
    assert flaw_of(cut, expected(), Policy("fail")).error_class == "truncated_output"
    assert flaw_of(cut, expected(), Policy()).error_class == "invalid_output"
    assert flaw_of(completion(choice("")), expected(), Policy("keep", "fail")) == (
        "empty_output", "the answer has no content, no tool call and no refusal", False,
    )  # fmt: skip


def test_the_verdict_keeps_what_was_paid():
    """An answer that does not do is charged, keeps model and usage, and is asked again at once."""
    found = completion(choice("no"))
    verdict = Verdict(Action.DONE, "completion", found, usage=found.usage)
    held = held_against(verdict, expected(), None)
    assert (held.action, held.error_class, held.charged) == (Action.AGAIN, "invalid_output", True)
    assert (held.usage, held.completion, held.backoff_s) == (found.usage, found, 0.0)
    assert held_against(verdict, None, Policy()) is verdict


@pytest.mark.parametrize(
    ("document", "made"),
    [
        (SCHEMA, {"name": "re_views", "strict": True, "schema": SCHEMA}),
        ({"name": "mine", "schema": SCHEMA}, {"name": "mine", "strict": True, "schema": SCHEMA}),
        (
            {"name": "mine", "strict": False, "schema": SCHEMA},
            {"name": "mine", "strict": False, "schema": SCHEMA},
        ),
        (OPENAI, OPENAI["json_schema"]),
        # A schema may describe objects that have a property `schema`.
        (
            {"type": "object", "properties": {"schema": {}}},
            {
                "name": "re_views",
                "strict": True,
                "schema": {"type": "object", "properties": {"schema": {}}},
            },
        ),
    ],
)
def test_what_is_sent_for_a_file(document, made):
    """A schema, OpenAI's object around it, or a whole response_format; what it says itself wins."""
    sent = of_document(document, "re views")
    assert sent == {"type": "json_schema", "json_schema": made}


def test_what_no_file_may_hold():
    """A list, or a response_format without a schema."""
    for document in ([1], "text", {"type": "json_schema", "json_schema": {"name": "a"}}):
        with pytest.raises(NotASchemaError):
            of_document(document, "x")


@pytest.mark.parametrize(
    ("text", "name"), [("a b.c", "a_b_c"), ("ä", "answer"), ("x" * 99, "x" * 64), ("", "answer")]
)
def test_names_are_those_that_servers_take(text, name):
    """Letters, digits, underscore and hyphen, at most 64."""
    assert name_of(text) == name
