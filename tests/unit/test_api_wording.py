"""Messages in keywords: what a program reads in place of flags."""

import re

import pytest

from batchrun.api import KEYWORDS
from batchrun.api_wording import COMMANDS, in_keywords
from batchrun.cli import main as cli
from batchrun.core.request.remedies import ADVICE
from batchrun.core.settings.table import FLAGGED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name one with --model", "name one with model="),
        ("give one with -o DIR, or set output.dir in the config file",
         "give one with output=DIR, or set output.dir in the config file"),
        ("--limit is 0; it must be at least 1", "limit is 0; it must be at least 1"),
        ("lower --max-cost.", "lower max_cost_usd=."),
        ("then --retry-class timeout.", 'then retry_class="timeout".'),
        ("then --keep-done --retry-class context_length",
         'then keep_done=True, retry_class="context_length"'),
        ("--on-truncation retry --truncation-limit N",
         'on_truncation="retry", truncation_limit=N'),
        ("name a --model with a longer context", "name a model= with a longer context"),
        ("request.prompt (--prompt) is empty", "prompt is empty"),
        ("--no-check-schema sends it", "check_schema=False sends it"),
        ("as in --param max_tokens=100", 'as in params={"max_tokens": 100}'),
        ("--temperature and --param temperature set one parameter",
         'temperature= and params={"temperature": ...} set one parameter'),
        ("less than --min-free-disk 500MB is left", 'less than min_free_disk="500MB" is left'),
        ("set --encoding cp1252", 'set encoding="cp1252"'),
        ("the same command with --resend-changed", "the same call with resend_changed=True"),
        ("--restart --reuse old", 'restart=True, reuse="old"'),
        ("check it with `batchrun doctor --base-url U`, then --retry-failed",
         "check it with `batchrun doctor --base-url U`, then retry_failed=True"),
        ("such as\n  batchrun run '<list>' --prompt '{{ q }}' --model M -o DIR",
         'such as\n  batchrun.run(rows, prompt="{{ q }}", model=M, output=DIR)'),
        ("such as\n  batchrun run a.csv b.csv --stream --limit 3 -c c.toml",
         'such as\n  batchrun.run("b.csv", "a.csv", stream=True, limit=3, config="c.toml")'),
        ("such as\n  batchrun run a.csv --json", "such as\n  batchrun run a.csv --json"),
        ("-o s3://bucket/run is an object store", 'output="s3://bucket/run" is an object store'),
        ("--metrics-file /a/b cannot be written", 'metrics_file="/a/b" cannot be written'),
        ("batchrun export DIR -o a.parquet --columns id,b. Then --restart",
         "batchrun export DIR -o a.parquet --columns id,b. Then restart=True"),
        ("`model` is sent by --send model", '`model` is sent by send="model"'),
        ("what --send names is sent", "what send= names is sent"),
        ("--log-file F --against DIR a--b -- well-known", None),
    ],
)  # fmt: skip
def test_flags_become_keywords(text, expected):
    """With the values that messages give them; flags that are no keywords stay."""
    assert in_keywords(text) == (text if expected is None else expected)


def test_settings_that_were_given_are_called_by_their_keywords():
    """Those of a config file keep the names that they have there."""
    text = "request.model is 5; endpoint.rpm is 0 (see job.toml, guards.max_cost_usd.x)"
    assert in_keywords(text, ["model"]) == text.replace("request.model", "model")
    assert in_keywords(text) == text
    said = "set request.model in the config file"
    assert in_keywords(said, ["model"]) == said


def test_every_command_is_known():
    """A command that is added is named here as well."""
    assert set(cli.COMMANDS) - {"run"} <= set(COMMANDS)


def test_every_flag_of_a_setting_is_translated():
    """No flag that a message may name is forgotten: what comes out is a keyword."""
    for setting in FLAGGED:
        for flag in (setting.flag or "").split("/"):
            if flag:
                keyword = in_keywords(f"lower {flag}, then").removeprefix("lower ").split("=")[0]
                assert keyword == "output" or keyword in KEYWORDS, flag


def test_advice_for_failed_rows_is_python():
    """What is said of each error class has no flag left in it."""
    for text in ADVICE.values():
        outside = re.sub("`[^`]*`", "", in_keywords(text))
        assert not re.search(r"(?<!\w)--[a-z]", outside), outside
