"""Settings from the config file, the environment, .env and flags, and which of them wins."""

import json
import shutil

import pytest


def _config(cli, text, name="c.toml"):
    path = cli.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_config_file_of_the_repository_runs(cli, samples, published):
    """The reference file is the demo: it runs as it is, twice, and verifies."""
    shutil.copytree(samples, cli.folder / "samples")
    shutil.copy(samples.parent / "config.toml", cli.folder)
    done = cli("run", "-c", "config.toml")
    assert done.code == 0, done.err
    assert published(cli.folder / "demo-run").num_rows == 60
    assert "nothing left to send" in cli("run", "-c", "config.toml").err
    cli.verified("demo-run")


def test_what_the_config_file_shows_as_comments_is_understood(samples):
    """Every commented example of the reference file is a setting that this version knows."""
    from batchrun.core.settings.resolve import from_toml, resolve

    lines = []
    for line in (samples.parent / "config.toml").read_text().splitlines():
        bare = line.removeprefix("# ") if line.startswith("# ") else line
        is_setting = "=" in bare.split("#")[0] or bare.startswith("[")
        if bare is not line and is_setting and not line.startswith("#  "):
            line = bare  # noqa: PLW2901 - a comment becomes a setting
        lines.append(line)
    # The prompt and all the messages exclude each other.
    text = "\n".join(line for line in lines if not line.startswith("messages = "))
    # The two inputs exclude each other.
    text = "\n".join(line for line in text.splitlines() if not line.startswith("from = "))
    # The file that it names is read with the config file; here it stands in it.
    text = text.replace('schema = "review.schema.json"', 'schema = { type = "object" }')
    # Without retries of truncated answers a limit for them means nothing.
    text = text.replace('on_truncation = "keep"', 'on_truncation = "retry"')
    for old in ('carry = "all"', 'carry = ["id", "topic"]'):
        resolve(from_toml(text.replace('carry = "all"', old), path="config.toml"))


def test_paths_are_relative_to_the_file(cli, simulator, jsonl):
    """A config file in another folder finds its input and makes its run directory there."""
    shutil.copy(jsonl(2), cli.folder / "in.jsonl")
    _config(
        cli,
        f"""
        [input]
        files = ["../in.jsonl"]
        [output]
        dir = "run"
        [request]
        model = "m"
        [[endpoint]]
        base_url = "{simulator().base_url}"
        """,
        "conf/c.toml",
    )
    done = cli("run", "-c", "conf/c.toml")
    assert done.code == 0, done.err
    cli.verified("conf/run")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ouput]\ndir = 'x'\n", ["c.toml", "ouput", "did you mean output"]),
        ("[retry]\nmax_atempts = 3\n", ["c.toml", "max_atempts", "did you mean max_attempts"]),
        ("[retry]\nmax_attempts = 'three'\n", ["retry.max_attempts", "whole number"]),
        ("[[endpoint]]\nprovider = 'acme'\n", ["endpoint.provider", "simulator"]),
        ("[input\n", ["c.toml", "TOML"]),
        ("[request]\nparams = { at = 2026-01-01 }\n", ["request.params"]),
        ("[request]\nparams = { x = nan }\n", ["request.params"]),
    ],
)
def test_a_wrong_config_file_is_exit_2(cli, text, words, jsonl):
    """The message names the file or the key, and the nearest known one."""
    _config(cli, text)
    done = cli.run(jsonl(1), "-c", "c.toml", "-o", "run", "--base-url", "http://127.0.0.1:9")
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err
    assert not (cli.folder / "run").exists()


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_config_file_that_cannot_be_read_is_exit_2(cli, name):
    """A missing file and a folder are named."""
    done = cli("run", "-c", name)
    assert done.code == 2
    assert done.err.startswith(f"batchrun: {name}: ")


# Where the base URL is said (by number of endpoint), and which endpoint is asked.
PRECEDENCE = [
    ({"flag": 0, "environment": 1, "dotenv": 2, "config": 3}, 0),
    ({"environment": 1, "dotenv": 2, "config": 3}, 1),
    ({"dotenv": 2, "config": 3}, 2),
    ({"config": 3}, 3),
    ({"flag": 0, "provider": True}, 0),
]


def test_flag_wins_over_environment_over_dotenv_over_config(cli, scripted, answer, jsonl):
    """Of all who name an endpoint the nearest is asked, and nobody else."""
    endpoints = [scripted(lambda *_: (200, {}, answer())) for _ in range(4)]
    source = jsonl(1)
    for number, (said, asked) in enumerate(PRECEDENCE):
        urls = {
            where: endpoints[which].base_url for where, which in said.items() if where != "provider"
        }
        (cli.folder / ".env").write_text(
            f"OPENAI_BASE_URL={urls['dotenv']}\n" if "dotenv" in urls else ""
        )
        text = "[[endpoint]]\nconcurrency = 1\n"
        text += f'base_url = "{urls["config"]}"\n' if "config" in urls else ""
        text += 'provider = "simulator"\n' if "provider" in said else ""
        _config(cli, text)
        done = cli.run(
            *(source, "-c", "c.toml", "-o", f"run-{number}"),
            *(("--base-url", urls["flag"]) if "flag" in urls else ()),
            env={"OPENAI_BASE_URL": urls["environment"]} if "environment" in urls else {},
        )
        assert done.code == 0, done.err
        counts = [len(endpoint.requests) for endpoint in endpoints]
        assert counts == [int(n == asked) for n in range(4)], said
        for endpoint in endpoints:
            endpoint.requests.clear()


def test_flags_add_to_tables_of_the_file(cli, scripted, answer, jsonl):
    """--param and --header fill in or replace single entries of the file's tables."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    _config(
        cli,
        f"""
        [request]
        params = {{ temperature = 0, seed = 1 }}
        [[endpoint]]
        base_url = "{endpoint.base_url}"
        headers = {{ X-A = "file", X-B = "file" }}
        """,
    )
    done = cli.run(
        *(jsonl(1), "-c", "c.toml", "-o", "run", "--param", "seed=2", "--param", 'user="u"'),
        *("--header", "X-B: flag"),
    )
    assert done.code == 0, done.err
    [(_, headers, body)] = endpoint.requests
    assert (headers["X-A"], headers["X-B"]) == ("file", "flag")
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "m",
        "temperature": 0,
        "seed": 2,
        "user": "u",
    }


def test_input_files_on_the_command_line_replace_those_of_the_file(cli, simulator, jsonl, summary):
    """Named inputs are the whole input."""
    _config(cli, '[input]\nfiles = ["missing.jsonl"]\n')
    done = cli.run(jsonl(2), "-c", "c.toml", "-o", "run", "--base-url", simulator().base_url)
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["rows"]["input"] == 2


@pytest.mark.parametrize(("legacy", "warned"), [("http://127.0.0.1:9/v1", True), (None, False)])
def test_the_old_variable_is_warned_of_where_it_differs(cli, simulator, jsonl, legacy, warned):
    """OPENAI_BASE_URL wins over OPENAI_API_BASE; both set and different is a warning."""
    url = simulator().base_url
    env = {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": legacy or url}
    done = cli.run(jsonl(1), "-o", "run", env=env)
    assert done.code == 0, done.err
    assert ("warning: OPENAI_BASE_URL and OPENAI_API_BASE differ" in done.err) is warned


def test_the_old_variable_alone_is_used(cli, simulator, jsonl):
    """OPENAI_API_BASE by itself names the endpoint, and an empty variable is none."""
    env = {"OPENAI_BASE_URL": "", "OPENAI_API_BASE": simulator().base_url}
    assert cli.run(jsonl(1), "-o", "run", env=env).code == 0


def test_a_proxy_from_the_environment_is_used_and_can_be_bypassed(cli, scripted, answer, jsonl):
    """HTTP_PROXY is minded, NO_PROXY too; the proxy gets the whole URL."""
    proxy = scripted(lambda *_: (200, {}, answer("by proxy")))
    direct = scripted(lambda *_: (200, {}, answer("direct")))
    source = jsonl(1)
    env = {"HTTP_PROXY": proxy.base_url.removesuffix("/v1")}
    flags = ("--base-url", direct.base_url)
    assert cli.run(source, "-o", "one", *flags, env=env).code == 0
    assert [path for path, _, _ in proxy.requests] == [f"{direct.base_url}/chat/completions"]
    assert cli.run(source, "-o", "two", *flags, env=env | {"NO_PROXY": "127.0.0.1"}).code == 0
    assert (len(proxy.requests), len(direct.requests)) == (1, 1)


def test_the_settings_of_a_run_are_in_its_summary(cli, simulator, jsonl, summary):
    """What a run was made with can be read from its summary."""
    url = simulator().base_url
    done = cli.run(
        *(jsonl(1), "-o", "run", "--base-url", url, "--param", "seed=7", "--shard-rows", 5),
    )
    assert done.code == 0, done.err
    settings = summary(cli.folder / "run")["settings"]
    assert settings["request.model"] == "m"
    assert settings["request.params"] == {"seed": 7}
    assert settings["output.shard_rows"] == 5
    assert settings["endpoint"][0]["base_url"] == url
    assert json.dumps(settings)
