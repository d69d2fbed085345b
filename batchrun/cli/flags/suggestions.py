"""What was probably meant by a flag or a command that does not exist.

Typing errors are left to ``difflib``. The tables are for people who come from another tool: they
map what such tools call a thing to what it is called here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import NamedTuple

from batchrun.core.settings.parameters import SENT


class Foreign(NamedTuple):
    """A flag here, and what other tools call it, without dashes.

    ``flag`` is the flag that a command must have for the advice to make sense; empty if any
    command will do. ``advice`` is a clause that completes the error message.
    """

    flag: str
    advice: str
    names: str


FLAGS: tuple[Foreign, ...] = (
    Foreign(
        "--rpm",
        "use --rpm N (requests per minute)",
        "rate-limit max-requests-per-minute requests-per-minute max-rpm rpm-limit throttle",
    ),
    Foreign(
        "--rpm",
        "use --rpm N (requests per minute: 60 times the rate per second)",
        "request-rate qps rps max-rps requests-per-second max-requests-per-second",
    ),
    Foreign(
        "--tpm",
        "use --tpm N (tokens per minute)",
        "max-tokens-per-minute tokens-per-minute max-tpm tpm-limit token-rate-limit",
    ),
    Foreign(
        "--concurrency",
        "use --concurrency N (requests in flight)",
        "num-workers max-workers n-workers threads num-threads n-threads parallel "
        "parallelism num-parallel jobs n-jobs num-concurrent max-concurrent "
        "max-concurrent-requests concurrent-requests num-proc max-connections max-parallel "
        "max-parallel-requests j w",
    ),
    Foreign(
        "--concurrency",
        "there are no batches, every row is a request; use --concurrency N for the requests in "
        "flight",
        "batch-size batchsize bs",
    ),
    Foreign(
        "--output",
        "use -o (--output)",
        "output-file output-path output-dir out out-dir outdir output-folder save-filepath "
        "save-path save-to save-dir results results-dir log-dir dest run-dir",
    ),
    Foreign(
        "--carry",
        "input files need no flag: batchrun run FILE -o DIR",
        "input input-file input-path input-dir infile in data dataset data-path file-path "
        "requests-file requests-filepath prompts prompts-file src i",
    ),
    Foreign(
        "--retry-failed",
        "no flag is needed: the same command resumes",
        "resume continue restart-from resume-from resume-from-checkpoint skip-existing "
        "skip-completed use-checkpoint",
    ),
    Foreign(
        "--retry-failed",
        "use --retry-failed",
        "retry retry-errors rerun-failed rerun-errors retry-failures redo-failed",
    ),
    Foreign(
        "--restart",
        "use --restart (the old contents are moved aside, not deleted)",
        "overwrite force fresh clean no-resume redo reset overwrite-output",
    ),
    Foreign(
        "--max-attempts",
        "use --max-attempts N (the first attempt counts too)",
        "max-retries retries num-retries n-retries retry-count max-tries attempts",
    ),
    Foreign(
        "--timeout",
        "use --timeout S (seconds per attempt)",
        "request-timeout timeout-s timeout-seconds api-timeout read-timeout http-timeout",
    ),
    Foreign(
        "--limit",
        "use --limit N",
        "num-prompts num-samples n-samples num-rows max-rows max-samples max-examples num-examples "
        "max-requests head first take nrows n",
    ),
    Foreign(
        "--base-url",
        "use --base-url URL",
        "url api-base api-url base endpoint endpoint-url server server-url host request-url "
        "openai-api-base api-endpoint u",
    ),
    Foreign(
        "--api-key-env",
        "set the environment variable OPENAI_API_KEY, or use --api-key-env VAR or --api-key-file "
        "FILE: other users can read the command line of a process",
        "api-key apikey key token auth-token openai-api-key openai-key bearer-token k",
    ),
    Foreign(
        "--provider",
        "use --provider NAME (`batchrun providers` lists them)",
        "api-type backend client vendor api service platform",
    ),
    Foreign("--model", "use --model M", "model-name model-id llm deployment deployment-name m"),
    Foreign(
        "--system",
        "use --system TEXT",
        "system-prompt system-message sys system-instruction instructions s",
    ),
    Foreign(
        "--prompt",
        "use --prompt '{{ COLUMN }}'",
        "prompt-template template user-prompt user-message prompt-column text-column "
        "prompt-field text-field question-column content-column message p",
    ),
    Foreign(
        "--max-tokens",
        "use --max-tokens N",
        "max-new-tokens max-completion-tokens max-output-tokens max-length max-gen-toks n-predict "
        "num-predict max-tokens-to-sample output-tokens",
    ),
    Foreign("--temperature", "use --temperature X", "temp t"),
    Foreign(
        "--schema",
        "use --schema FILE",
        "json-schema guided-json output-schema response-schema response-model structured-output "
        "json-mode",
    ),
    Foreign(
        "--param",
        "use --param KEY=JSON, once for each parameter",
        "params parameters model-args gen-kwargs generation-config sampling-params extra-body "
        "extra-args options generate-kwargs",
    ),
    Foreign(
        "--header", "use --header 'Name: value', once for each header", "headers extra-headers"
    ),
    Foreign(
        "--max-cost",
        "use --max-cost USD",
        "budget max-budget cost-limit max-spend spend-limit max-cost-usd max-price cost-cap",
    ),
    Foreign(
        "--reuse",
        "use --reuse DIR (a run directory to copy answers from)",
        "cache cache-dir use-cache cache-path no-cache",
    ),
    Foreign(
        "--id",
        "use --id COL",
        "id-column id-field custom-id id-key custom-id-column key-column index-column",
    ),
    Foreign(
        "--carry",
        "use --carry COL,...",
        "keep-columns copy-columns passthrough columns include-columns keep-fields",
    ),
    Foreign("--sample", "use --sample N", "shuffle random-sample subsample sample-size"),
    Foreign("--dry-run", "use --dry-run", "dry dryrun check test preview no-send"),
    Foreign(
        "--log-level",
        "use --log-level debug",
        "verbose debug logging-level loglevel verbosity v vv",
    ),
    Foreign("--quiet", "use --quiet", "silent q no-output"),
    Foreign("--no-progress", "use --no-progress", "no-tqdm disable-tqdm no-progress-bar no-bar"),
    Foreign(
        "--ca-file",
        "trust a private authority with --ca-file FILE; certificates are always checked",
        "insecure no-verify no-verify-ssl no-check-certificate ca-bundle cacert ca-cert ssl-cert "
        "verify-ssl",
    ),
    Foreign(
        "--base-url",
        "set the environment variable HTTPS_PROXY or HTTP_PROXY",
        "proxy http-proxy https-proxy proxy-url x",
    ),
    Foreign("--json", "use --json", "output-format as-json json-output print-json"),
    Foreign("", "use batchrun --version", "version"),
)
"""Flags of other tools; the first row that a command has the flag for counts."""

COMMANDS: tuple[tuple[str, str], ...] = (
    ("resume continue", "The same `batchrun run` command resumes a run."),
    ("retry rerun", "To send failed rows again: the same `batchrun run` command, --retry-failed"),
    ("batch start launch submit generate complete infer process chat", "Did you mean 'run'?"),
    ("eval evaluate evals", "To start an evaluation: batchrun init eval"),
    ("check lint", "Did you mean 'validate' or 'doctor'?"),
    ("ping test-endpoint health login auth models", "Did you mean 'doctor'?"),
    ("price pricing tokens count", "Did you mean 'estimate' or 'costs'?"),
    ("ls list history", "Did you mean 'runs'?"),
    ("progress watch monitor top info ps", "Did you mean 'status'?"),
    ("stop cancel kill abort", "To stop a live run: batchrun ctl DIR drain"),
    ("pause set", "To change a live run: batchrun ctl DIR pause|resume|drain|set"),
    ("view cat head log logs inspect get errors", "Did you mean 'show'?"),
    ("html plot dashboard ui", "Did you mean 'report'?"),
    ("convert dump save csv jsonl parquet", "Did you mean 'export'?"),
    ("sql", "Did you mean 'query'?"),
    ("diff", "Did you mean 'compare'?"),
    ("baseline", "Did you mean 'bless'?"),
    ("new create scaffold quickstart example", "Did you mean 'init'?"),
    ("config settings", "The keys are in docs/reference.md; see also `batchrun schema config`."),
    ("serve server mock fake", "Did you mean 'simulate'?"),
    ("help", "Use batchrun --help, or batchrun COMMAND --help."),
    ("version", "Use batchrun --version."),
)
"""Commands of other tools, and what to say."""


def flag_meant(name: str, known: Collection[str]) -> str:
    """What to say about a flag that does not exist; ``known`` are those of the command."""
    bare = name.lstrip("-").replace("_", "-").lower()
    if f"--{bare}" in known:
        return f"Did you mean --{bare}?"
    for foreign in FLAGS:
        if bare in foreign.names.split() and (not foreign.flag or foreign.flag in known):
            return f"{foreign.advice[0].upper()}{foreign.advice[1:]}."
    key = bare.replace("-", "_")
    if key in SENT and "--param" in known and name.startswith("--"):
        return f"It is a request parameter: use --param {key}=JSON."
    begun = [word for word in sorted(known) if word.startswith(name) and len(name) > 3]
    near = (begun or get_close_matches(name, sorted(known), n=3))[:3]
    return f"Did you mean {' or '.join(near)}?" if near else ""


def command_meant(word: str, known: Iterable[str]) -> str:
    """What to say about a command that does not exist; ``known`` are those that do."""
    near = get_close_matches(word.lower(), list(known), n=1)
    if near:
        return f"Did you mean '{near[0]}'?"
    if os.path.exists(word):  # noqa: PTH110 - pathlib is not loaded for --help
        return f"To run the rows of a file: batchrun run {word} -o DIR"
    return next((advice for names, advice in COMMANDS if word.lower() in names.split()), "")
