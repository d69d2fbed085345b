"""Every setting there is, in one table.

It drives the configuration file, the command's flags and the reference page alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrun.core.text.byte_sizes import Bytes

AUTO_CONCURRENCY = 64
"""Requests in flight at first, where batchrun finds how many the server can take."""
MIN_CONCURRENCY, MAX_CONCURRENCY = 1, 1024
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY = "OPENAI_API_KEY"
OLD = "old"
"""In the place of a directory to reuse: what ``--restart`` sets aside."""
LABELS = "labels"
"""The table of labels, and the setting that it is."""
REPEAT_MAX = 10_000
"""How often a row may be sent."""
KEEPALIVE_S_MAX = 32767
"""The longest time that Linux takes (``MAX_TCP_KEEPIDLE``, ``MAX_TCP_KEEPINTVL``)."""


KINDS: Mapping[str, str] = {
    "text": "text",
    "path": "path",
    "paths": "list of paths",
    "dirs": "list of paths",
    "int": "whole number",
    "number": "number",
    "bool": "true or false",
    "choice": "text",
    "delimiter": "one character, or `tab`",
    "encoding": "an encoding's name",
    "columns": "text, or list of names",
    "object": "table",
    "names": "list of names",
    "messages": "list of tables",
    "schema": "path, or table",
    "headers": "table of text",
    "concurrency": "whole number, or `auto`",
    "command": "text",
    "provider": "a provider's name",
    "prices": "tables of numbers",
    "measures": "table of SQL, or tables",
    "labels": "table of text",
    "header_name": "text",
    "bytes": "bytes, such as `500MB` or `2GiB`",
    "models": "list of names, or table of text",
    "webhook": "an http:// or https:// URL",
    "share": "share, such as `5%`",
    "bound": "whole number, or share such as `5%`",
}
"""Every kind of setting, and the type that the config file takes for it. ``core.settings.values``
reads them; as flags, lists and tables are repeated.
"""


INPUT, PROMPT, ENDPOINT, LIMITS, RETRIES = "Input", "Prompt", "Endpoint", "Limits", "Retries"
GUARDS, RESUME, OUTPUT, DISPLAY = "Guards", "Resume", "Output", "Display"
FLEET = "Several processes"
GROUPS: Mapping[str, str] = {
    INPUT: "which rows are read, and how",
    PROMPT: "what each row is sent as",
    ENDPOINT: "where requests go, and with which key",
    LIMITS: "how fast requests are sent",
    RETRIES: "what is sent again, and for how long",
    GUARDS: "when to stop, or not to start",
    RESUME: "what becomes of rows that are done",
    OUTPUT: "what is written, and where",
    FLEET: "one run by several processes",
    DISPLAY: "what is printed",
}
"""The groups of flags in the help and in the reference, in order, and what each is about."""
_GROUP_OF_SECTION = {
    "input": INPUT,
    "output": OUTPUT,
    "request": PROMPT,
    "endpoint": ENDPOINT,
    "retry": RETRIES,
    "guards": GUARDS,
    "notify": OUTPUT,
    "labels": OUTPUT,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its key in the config file, its flag, its kind and its default.

    ``kind`` is one of ``KINDS``; a ``bool`` has a pair of flags, ``--x/--no-x``. ``low`` and
    ``high`` are the smallest and the largest number accepted. ``shapes`` marks a setting that
    shapes requests or parts: it may not differ between the runs on one directory. ``group`` is the
    heading of its flag in the help, if not that of its section. ``brief`` says in a few words what
    the flag is for; flags with one are in the short help (``-h``).
    """

    section: str
    key: str
    kind: str
    flag: str | None
    help: str
    default: Any = None
    metavar: str | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    shapes: bool = False
    group: str = ""
    brief: str = ""

    @property
    def heading(self) -> str:
        """The heading of ``GROUPS`` that its flag is listed under."""
        return self.group or _GROUP_OF_SECTION.get(self.section, "")

    @property
    def name(self) -> str:
        """``section.key``, the name used in messages; ``section`` for a table that is a setting."""
        return f"{self.section}.{self.key}" if self.key else self.section

    @property
    def keyword(self) -> str:
        """The keyword argument of ``batchrun.run`` that sets it; empty if none does."""
        return KEYWORD_NAMES.get(self.name, self.key or self.section)


TABLE: tuple[Setting, ...] = (
    Setting(
        "input",
        "files",
        "paths",
        None,
        "Input files, globs, folders and URLs, in this order; `-` is stdin.",
        default=(),
    ),
    Setting(
        "input",
        "format",
        "choice",
        "--format",
        "Format of the input; `auto` goes by file name, then by the first bytes.",
        default="auto",
        choices=("auto", "jsonl", "json", "csv", "tsv", "xlsx", "parquet"),
    ),
    Setting(
        "input",
        "quoting",
        "choice",
        "--quoting",
        "Whether quotes enclose fields in CSV and TSV [default: csv for CSV, none for TSV].",
        choices=("csv", "none"),
    ),
    Setting(
        "input",
        "delimiter",
        "delimiter",
        "--delimiter",
        "Field separator of CSV and TSV: one character, or `tab` [default: detected in CSV, tab "
        "in TSV].",
        metavar="C",
    ),
    Setting(
        "input",
        "encoding",
        "encoding",
        "--encoding",
        "Encoding of CSV and TSV, such as utf-8 or cp1252 [default: detected].",
        metavar="NAME",
    ),
    Setting(
        "input",
        "carry",
        "columns",
        "--carry",
        "Input columns to copy into the results.",
        default="all",
        metavar="all|none|COL,...",
        shapes=True,
    ),
    Setting(
        "input",
        "send",
        "columns",
        "--send",
        "Input columns to send as request parameters [default: none with a prompt, else every "
        "known parameter; in tables `user`, `metadata` and `store` only if named].",
        metavar="none|all|COL,...",
        shapes=True,
    ),
    Setting(
        "input",
        "id",
        "text",
        "--id",
        "Input column to use as custom_id; it is also carried [default: custom_id].",
        metavar="COL",
        shapes=True,
    ),
    Setting(
        "input",
        "sample",
        "int",
        "--sample",
        "Run a random sample of N rows, in input order; needs a run directory of its own.",
        metavar="N",
        low=1,
        shapes=True,
    ),
    Setting(
        "input",
        "sample_seed",
        "int",
        "--sample-seed",
        "Seed for --sample; the same seed and input give the same rows.",
        default=0,
        metavar="N",
        low=0,
        shapes=True,
    ),
    Setting(
        "input",
        "reuse",
        "dirs",
        "--reuse",
        "Take answers from this run directory where the request is the same; repeatable. `old` "
        "means the contents that --restart sets aside.",
        default=(),
        metavar="DIR|old",
        group=RESUME,
    ),
    Setting(
        "input",
        "lengths_from",
        "path",
        "--lengths-from",
        "Send rows with long answers first, going by this earlier run, so that the run ends "
        "sooner.",
        metavar="DIR",
    ),
    Setting(
        "input",
        "from",
        "path",
        "--from",
        "Use the results of another run as the input, one row per answer; instead of INPUT files.",
        metavar="DIR",
        shapes=True,
    ),
    Setting(
        "input",
        "from_status",
        "choice",
        "--from-status",
        "Which rows of --from DIR to use.",
        default="ok",
        choices=("ok", "error", "any"),
        shapes=True,
    ),
    Setting(
        "input",
        "allow_partial",
        "bool",
        "--allow-partial/--no-allow-partial",
        "Use --from DIR even if that run is live or has pending rows; only published rows count.",
        default=False,
    ),
    Setting(
        "output",
        "dir",
        "path",
        "--output",
        "Run directory: a folder, or an address such as s3://BUCKET/PREFIX.",
        metavar="DIR",
        brief="Run directory; the same command resumes it",
    ),
    Setting(
        "output",
        "checkpoint",
        "path",
        "--checkpoint",
        "Local folder for the checkpoint, if not in the run directory; required if that is in an "
        "object store.",
        metavar="DIR",
        group=RESUME,
    ),
    Setting(
        "output",
        "raw",
        "choice",
        "--raw",
        "Rows whose raw response is kept.",
        default="all",
        choices=("all", "errors", "none"),
    ),
    Setting(
        "output",
        "requests",
        "choice",
        "--requests",
        "Rows whose request body is kept, in requests/.",
        default="none",
        choices=("none", "errors", "all"),
    ),
    Setting(
        "output",
        "shard_rows",
        "int",
        "--shard-rows",
        "Rows per output file; with --repeat, of its requests.",
        default=10_000,
        metavar="N",
        low=1,
        shapes=True,
    ),
    Setting(
        "output",
        "on_truncation",
        "choice",
        "--on-truncation",
        "What to do with an answer that a token limit cut off.",
        default="keep",
        choices=("keep", "fail", "retry"),
        group=RETRIES,
    ),
    Setting(
        "output",
        "truncation_limit",
        "int",
        "--truncation-limit",
        "Double the token limit on each retry of a cut-off answer, up to N tokens; needs "
        "--on-truncation retry.",
        metavar="N",
        low=1,
        group=RETRIES,
    ),
    Setting(
        "output",
        "on_empty",
        "choice",
        "--on-empty",
        "What to do with an answer without content, tool call or refusal.",
        default="keep",
        choices=("keep", "fail", "retry"),
        group=RETRIES,
    ),
    Setting(
        "output",
        "fallback_model",
        "text",
        "--fallback-model",
        "Model to try once for rows that end in a content filter or a refusal.",
        metavar="M",
        group=RETRIES,
    ),
    Setting(
        "output",
        "think",
        "choice",
        "--think",
        "Move the text between reasoning tags (`<think>`) to the column `reasoning`, or keep it "
        "in the content [default: split for models known to write such tags, else keep].",
        choices=("split", "keep"),
        shapes=True,
    ),
    Setting(
        "output",
        "accept_fenced",
        "bool",
        "--accept-fenced/--no-accept-fenced",
        "Accept JSON inside a Markdown fence where the request asks for JSON.",
        default=False,
        shapes=True,
    ),
    Setting(
        "output",
        "check_schema",
        "bool",
        "--check-schema/--no-check-schema",
        "Check answers against the JSON Schema in the response_format of their request [default: "
        "on].",
        default=True,
    ),
    Setting(
        "output",
        "check_tools",
        "bool",
        "--check-tools/--no-check-tools",
        "Check the arguments of tool calls against the tools of their request.",
        default=False,
    ),
    Setting(
        "request",
        "model",
        "text",
        "--model",
        "Model for rows that name none; may be a template over the columns.",
        metavar="M",
        shapes=True,
        brief="Model for rows that name none",
    ),
    Setting(
        "request",
        "system",
        "text",
        "--system",
        "System message, a template over the columns; needs --prompt.",
        metavar="T",
        shapes=True,
    ),
    Setting(
        "request",
        "prompt",
        "text",
        "--prompt",
        "User message, a template over the columns such as `{{ question }}`.",
        metavar="T",
        shapes=True,
        brief="User message, such as '{{ question }}'",
    ),
    Setting(
        "request",
        "messages",
        "messages",
        None,
        "All messages of a row, instead of prompt and system.",
        default=(),
        shapes=True,
    ),
    Setting(
        "request",
        "turns",
        "text",
        "--turns",
        "Column with a list of user turns, sent one after the other, each with the answers so far.",
        metavar="COL",
        shapes=True,
    ),
    Setting(
        "request",
        "image",
        "names",
        "--image",
        "Column with images (URL, path or bytes) to add to the user message; repeatable.",
        default=(),
        metavar="COL",
        shapes=True,
    ),
    Setting(
        "request",
        "file",
        "names",
        "--file",
        "Column with files (path or bytes) to add to the user message; repeatable.",
        default=(),
        metavar="COL",
        shapes=True,
    ),
    Setting(
        "request",
        "params",
        "object",
        "--param",
        "Request parameter for rows that do not set it; may be a template; repeatable.",
        default={},
        metavar="KEY=JSON",
        shapes=True,
    ),
    Setting(
        "request",
        "repeat",
        "int",
        "--repeat",
        "Send every row K times, each time as a request of its own; templates see `repeat`, "
        "counted from 0.",
        default=1,
        metavar="K",
        low=1,
        high=REPEAT_MAX,
        shapes=True,
    ),
    Setting(
        "request",
        "schema",
        "schema",
        "--schema",
        "JSON Schema that answers must match; becomes the response_format of rows without one.",
        metavar="FILE",
        shapes=True,
    ),
    Setting(
        "request",
        "stream",
        "bool",
        "--stream/--no-stream",
        "Stream the answers and assemble them; the result columns are the same.",
        default=False,
        shapes=True,
    ),
    Setting(
        "endpoint",
        "name",
        "text",
        None,
        "Name of the endpoint in results and ledger.",
    ),
    Setting(
        "endpoint",
        "provider",
        "provider",
        "--provider",
        "Endpoint known by name (see `batchrun providers`); `simulator` is built in.",
        metavar="NAME",
        brief="Endpoint by name (batchrun providers)",
    ),
    Setting(
        "endpoint",
        "base_url",
        "text",
        "--base-url",
        f"Base URL of the endpoint [default: the provider's, else {DEFAULT_BASE_URL}].",
        metavar="URL",
        brief="Endpoint, such as http://localhost:8000/v1",
    ),
    Setting(
        "endpoint",
        "api_key_env",
        "text",
        "--api-key-env",
        f"Environment variable that holds the key [default: the provider's, else {DEFAULT_KEY}].",
        metavar="VAR",
    ),
    Setting(
        "endpoint",
        "api_key_file",
        "path",
        "--api-key-file",
        "File that holds the key; read again after a 401.",
        metavar="FILE",
    ),
    Setting(
        "endpoint",
        "api_key_command",
        "command",
        "--api-key-command",
        "Command that prints the key; run at the start and again after a 401.",
        metavar="CMD",
    ),
    Setting(
        "endpoint",
        "api_key_header",
        "header_name",
        "--api-key-header",
        "Header to send the key in [default: the provider's, else Authorization: Bearer].",
        metavar="NAME",
    ),
    Setting(
        "endpoint",
        "headers",
        "headers",
        "--header",
        "Extra request header; repeatable.",
        default={},
        metavar="'K: V'",
    ),
    Setting(
        "endpoint",
        "ca_file",
        "path",
        "--ca-file",
        "Certificate authorities to trust (PEM), instead of the system's.",
        metavar="FILE",
    ),
    Setting(
        "endpoint",
        "client_cert",
        "path",
        "--client-cert",
        "Client certificate (PEM) for servers that require one; may include its key.",
        metavar="FILE",
    ),
    Setting(
        "endpoint",
        "client_key",
        "path",
        "--client-key",
        "Key of the client certificate (PEM), if it is in a file of its own.",
        metavar="FILE",
    ),
    Setting(
        "endpoint",
        "concurrency",
        "concurrency",
        "--concurrency",
        "Maximum requests in flight; `auto` finds what the server can take, starting at "
        f"{AUTO_CONCURRENCY}.",
        default="auto",
        metavar="N|auto",
        low=1,
        group=LIMITS,
        brief="Maximum requests in flight [default: auto]",
    ),
    Setting(
        "endpoint",
        "min_concurrency",
        "int",
        "--min-concurrency",
        "Lower bound for --concurrency auto.",
        default=MIN_CONCURRENCY,
        metavar="N",
        low=1,
        group=LIMITS,
    ),
    Setting(
        "endpoint",
        "max_concurrency",
        "int",
        "--max-concurrency",
        "Upper bound for --concurrency auto.",
        default=MAX_CONCURRENCY,
        metavar="N",
        low=1,
        group=LIMITS,
    ),
    Setting(
        "endpoint",
        "rpm",
        "number",
        "--rpm",
        "Maximum requests per minute.",
        metavar="N",
        low=0.001,
        group=LIMITS,
        brief="Maximum requests per minute",
    ),
    Setting(
        "endpoint",
        "tpm",
        "number",
        "--tpm",
        "Maximum tokens per minute, prompt plus completion.",
        metavar="N",
        low=1,
        group=LIMITS,
    ),
    Setting(
        "endpoint",
        "charge",
        "choice",
        None,
        "What the server charges to its token limit for a request: `sum` (prompt plus "
        "max_tokens), `max` (the larger of them), `input` (the prompt) or `real` (the tokens "
        "used) [default: the provider's rule, else learned].",
        choices=("sum", "max", "input", "real"),
        group=LIMITS,
    ),
    Setting(
        "endpoint",
        "models",
        "models",
        None,
        "Models that the endpoint serves, or a table from your names to its own [default: any].",
    ),
    Setting(
        "endpoint",
        "weight",
        "number",
        None,
        "Share of the load relative to the other endpoints, per unit of concurrency.",
        default=1.0,
        low=0.001,
        group=LIMITS,
    ),
    Setting(
        "endpoint",
        "keepalive_s",
        "number",
        None,
        "Seconds of silence before a TCP keep-alive probe, and between probes; 0 sends none.",
        default=30.0,
        low=0,
        high=KEEPALIVE_S_MAX,
    ),
    Setting(
        "retry",
        "max_attempts",
        "int",
        "--max-attempts",
        "Attempts per row; throttled attempts do not count.",
        default=6,
        metavar="N",
        low=1,
    ),
    Setting(
        "retry",
        "timeout_s",
        "number",
        "--timeout",
        "Seconds that one attempt may take, not counting time in which batchrun is suspended.",
        default=600.0,
        metavar="S",
        low=0.001,
    ),
    Setting(
        "retry",
        "connect_timeout_s",
        "number",
        "--connect-timeout",
        "Seconds to wait for a connection to open.",
        default=30.0,
        metavar="S",
        low=0.001,
    ),
    Setting(
        "retry",
        "max_wait_s",
        "number",
        "--max-wait",
        "Longest wait in seconds that a server may ask for; a longer one stops the run.",
        default=600.0,
        metavar="S",
        low=0,
    ),
    Setting(
        "retry",
        "max_response_bytes",
        "int",
        "--max-response-bytes",
        "Fail a row as `response_too_large` if its reply is larger.",
        default=64 * 2**20,
        metavar="N",
        low=1024,
    ),
    Setting(
        "guards",
        "max_failures",
        "bound",
        "--max-failures",
        "Stop when more rows than this fail in one session; a share applies after 100 rows.",
        metavar="N|P%",
    ),
    Setting(
        "guards",
        "max_truncated",
        "share",
        "--max-truncated",
        "Stop when more answers than this are cut off by a token limit; applies after 100 rows.",
        metavar="P%",
    ),
    Setting(
        "guards",
        "max_empty",
        "share",
        "--max-empty",
        "Stop when more answers than this are empty; applies after 100 rows.",
        metavar="P%",
    ),
    Setting(
        "guards",
        "repeated_failure",
        "bool",
        "--repeated-failure/--no-repeated-failure",
        "Stop when more than 30 consecutive rows fail in the same way; they stay pending "
        "[default: on].",
        default=True,
    ),
    Setting(
        "guards",
        "max_cost_usd",
        "number",
        "--max-cost",
        "Spending cap in USD for the whole run, across resumes.",
        metavar="USD",
        low=0.000001,
        brief="Spending cap in USD",
    ),
    Setting(
        "guards",
        "max_total_tokens",
        "int",
        "--max-total-tokens",
        "Token cap for the whole run, across resumes: prompt plus completion.",
        metavar="N",
        low=1,
    ),
    Setting(
        "guards",
        "deadline_s",
        "number",
        "--deadline",
        "Stop this many seconds after the start; requests in flight may finish.",
        metavar="S",
        low=0,
    ),
    Setting(
        "guards",
        "min_free_disk",
        "bytes",
        "--min-free-disk",
        "Stop when a disk in use has less free space than this, such as 500MB or 2GiB; 0 turns it "
        "off.",
        default=Bytes(256 * 2**20),
        metavar="BYTES",
    ),
    Setting(
        "guards",
        "grace_s",
        "number",
        "--grace",
        "Seconds that requests in flight have to finish after a stop.",
        default=30.0,
        metavar="S",
        low=0,
    ),
    Setting(
        "notify",
        "on_finish",
        "command",
        "--on-finish",
        "Command that receives the summary as JSON on stdin when the run ends, however it ends.",
        metavar="CMD",
    ),
    Setting(
        "notify",
        "webhook",
        "webhook",
        None,
        "URL that receives one POST of JSON (text, status, exit_code, dir) when the run ends, "
        "however it ends.",
    ),
    Setting(
        "notify",
        "metrics_file",
        "path",
        "--metrics-file",
        "Prometheus text file, replaced atomically every 15 seconds and at the end.",
        metavar="F",
    ),
    Setting(
        "prices",
        "",
        "prices",
        None,
        'Prices by model, as tables `[prices."MODEL"]`; USD per million tokens.',
        default={},
    ),
    Setting(
        "scores",
        "",
        "measures",
        None,
        "Scores by name, one value per row: SQL over the result columns, or a table with `sql` or "
        "`python`, `errors` and `timeout_s`.",
        default={},
    ),
    Setting(
        "metrics",
        "",
        "measures",
        None,
        "Metrics by name: SQL aggregates over results and scores, or a table with `value`, `by` "
        "and `cluster`.",
        default={},
    ),
    Setting(
        "gates",
        "",
        "measures",
        None,
        'Rules by metric or figure, such as accuracy = ">= 0.80"; rules against a baseline are in '
        "`[gates.compare]`.",
        default={},
    ),
    Setting(
        "judge",
        "",
        "measures",
        None,
        "Judges by name, as tables `[judge.NAME]`: `config` is the file with the judge's prompt "
        "and JSON Schema, `agreement` a column of human labels, `score` the field compared with "
        "it; `allow_self` lets a model judge its own answers.",
        default={},
    ),
    Setting(
        "labels",
        "",
        "labels",
        "--label",
        "Label recorded in summary.json, for `runs` and `costs` to group by; repeatable.",
        default={},
        metavar="KEY=VALUE",
    ),
)

SHORT: tuple[Setting, ...] = (
    Setting(
        "request",
        "temperature",
        "number",
        "--temperature",
        "Sampling temperature; short for --param temperature=X.",
        metavar="X",
    ),
    Setting(
        "request",
        "max_tokens",
        "int",
        "--max-tokens",
        "Token limit of an answer; sent as max_tokens, or max_completion_tokens where the "
        "provider takes that.",
        metavar="N",
    ),
    Setting(
        "request",
        "top_p",
        "number",
        "--top-p",
        "Nucleus sampling; short for --param top_p=X.",
        metavar="X",
    ),
    Setting(
        "request",
        "seed",
        "int",
        "--seed",
        "Sampling seed; short for --param seed=N.",
        metavar="N",
    ),
)
"""Flags and keywords that set a key of ``request.params``. In a config file it stands there."""

FLAGGED = (
    *(setting for setting in TABLE if setting.section in ("input", "output", "request")),
    *SHORT,
    *(setting for setting in TABLE if setting.section not in ("input", "output", "request")),
)
"""Every setting that may have a flag, in the order of ``--help``."""

OF_JUDGES = tuple(
    setting
    for setting in FLAGGED
    if setting.section not in ("input", "labels", "notify", "scores", "metrics", "gates", "judge")
    and setting.name not in ("output.dir", "output.checkpoint", "output.check_schema")
)
"""The settings that ``batchrun judge`` has flags for. What a judge reads and where it writes is
given, and its verdicts are always held against their schema.
"""

KEYWORD_NAMES: Mapping[str, str] = {
    "input.files": "",
    "output.dir": "output",
    "input.from": "from_",
}
"""Keyword arguments that are not called like the key. Input files are the first argument; `from` is
a word of Python's own."""

SECTIONS = tuple(dict.fromkeys(setting.section for setting in TABLE))
BY_NAME = {setting.name: setting for setting in FLAGGED}
