"""Keys from files and commands, and their renewal while requests are out."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

OLD, NEW = "sk-SECRET-the-old-one", "sk-SECRET-the-new-one"
REFUSED = (401, {}, {"error": {"message": "expired", "code": "token_expired"}})


@pytest.fixture
def demanding(scripted, answer):
    """Starts an endpoint that takes the keys of a set, which the test may change."""

    def start(*keys):
        taken = set(keys)

        def reply(_body, headers, _nth):
            key = (headers["Authorization"] or "").removeprefix("Bearer ")
            return (200, {}, answer(f"to {key[-7:]}")) if key in taken else REFUSED

        endpoint = scripted(reply)
        endpoint.taken = taken
        return endpoint

    return start


def _keys(endpoint):
    return [headers.get("Authorization") for _, headers, _ in endpoint.requests]


def _python(program):
    """A command that runs a line of Python."""
    return shlex.join([sys.executable, "-c", program])


class TestSources:
    def test_a_file(self, cli, demanding, jsonl):
        """Its key is stripped; a mark that an editor put before it too."""
        endpoint = demanding(OLD)
        for number, data in enumerate((f"{OLD}\n", f"\ufeff{OLD}\r\n")):
            (cli.folder / "key").write_text(data, "utf-8", newline="")
            done = cli.run(
                *(jsonl(2), "-o", f"run-{number}", "--base-url", endpoint.base_url),
                *("--api-key-file", "key"),
                env={"OPENAI_API_KEY": "another"},
            )
            assert done.code == 0, done.err
        assert set(_keys(endpoint)) == {f"Bearer {OLD}"}

    def test_a_command(self, cli, demanding, jsonl):
        """It is run once, without a shell and without input."""
        endpoint = demanding(OLD)
        program = (
            f"import sys; open('ran', 'a').write('x'); assert not sys.stdin.read(); print('{OLD}')"
        )
        done = cli.run(
            *(jsonl(3), "-o", "run", "--base-url", endpoint.base_url),
            *("--api-key-command", _python(program)),
        )
        assert done.code == 0, done.err
        assert (cli.folder / "ran").read_text() == "x"
        assert "renew" not in done.err and OLD not in done.err

    def test_the_config_file_names_them(self, cli, demanding, jsonl):
        """A path is relative to the file; a flag of any of the three replaces it."""
        endpoint = demanding(OLD)
        (cli.folder / "conf").mkdir()
        (cli.folder / "conf" / "key").write_text(OLD)
        config = cli.folder / "conf" / "c.toml"
        config.write_text(f'[[endpoint]]\nbase_url = "{endpoint.base_url}"\napi_key_file = "key"\n')
        done = cli.run("-c", config, jsonl(1), "-o", "a")
        assert done.code == 0, done.err
        done = cli.run("-c", config, jsonl(1), "-o", "b", "--api-key-env", "K", env={"K": NEW})
        assert done.code == 3 and _keys(endpoint)[-1] == f"Bearer {NEW}"
        done = cli.run("-c", config, jsonl(1), "-o", "c", "--api-key-command", f"echo {NEW}")
        assert done.code == 3 and _keys(endpoint)[-1] == f"Bearer {NEW}"
        assert NEW not in done.err + done.out

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (("--api-key-file", "none"), ["key file none", "No such file"]),
            (("--api-key-file", "empty"), ["key file empty", "is empty"]),
            (("--api-key-file", "two"), ["key file two", "line break"]),
            (("--api-key-file", "binary"), ["key file binary", "not ASCII"]),
            (("--api-key-file", "."), ["key file .", "directory"]),
            (("--api-key-file", "/dev/zero"), ["/dev/zero", "larger"]),
            (("--api-key-command", "no-such-program x"), ["no-such-program", "No such file"]),
            (("--api-key-command", "true"), ["key command true", "is empty"]),
            (("--api-key-command", "echo x | cat"), ["without a shell", "sh -c"]),
            (("--api-key-command", "echo 'x"), ["quote"]),
            (("--api-key-command", ""), ["expected a command"]),
            (
                ("--api-key-command", "sh -c 'echo SECRETkey; echo SECRETkey is late >&2; exit 7'"),
                ["key command sh", "exit code 7", "is late"],
            ),
            (("--api-key-command", "sh -c 'kill -9 $$'"), ["signal 9"]),
            (("--api-key-command", "yes"), ["printed more"]),
            (
                ("--api-key-file", "two", "--api-key-command", "true"),
                ["--api-key-file and --api-key-command are 2 sources"],
            ),
            (
                ("--api-key-env", "A", "--api-key-file", "two"),
                ["--api-key-env and --api-key-file are 2 sources"],
            ),
        ],
    )  # fmt: skip
    def test_a_source_that_gives_no_key(self, cli, jsonl, flags, words):
        """It is named, with what is wrong, without the key, before anything is touched."""
        (cli.folder / "empty").write_text(" \n")
        (cli.folder / "two").write_text("SECRET-one\nSECRET-two\n")
        (cli.folder / "binary").write_bytes(b"SECRET\xff\xfe")
        done = cli.run(jsonl(1), "-o", "run", "--base-url", "http://127.0.0.1:9", *flags)
        assert done.code == 2, done.err
        for word in words:
            assert word in done.err
        assert "SECRET" not in done.err
        assert not (cli.folder / "run").exists()

    def test_two_sources_in_the_config_file(self, cli, jsonl):
        """They are an error too, by their keys."""
        (cli.folder / "c.toml").write_text(
            '[[endpoint]]\napi_key_file = "k"\napi_key_command = "c"\n'
        )
        done = cli.run("-c", "c.toml", jsonl(1), "-o", "run")
        assert done.code == 2
        assert "endpoint.api_key_file and endpoint.api_key_command" in done.err

    def test_a_pipe_is_read_once(self, cli, demanding, jsonl):
        """Where the shell makes a file of a command's output, there is no second reading."""
        endpoint = demanding(NEW)
        reading, writing = os.pipe()
        os.write(writing, OLD.encode())
        os.close(writing)
        done = cli.run(
            *(jsonl(1), "-o", "run", "--base-url", endpoint.base_url),
            *("--api-key-file", f"/dev/fd/{reading}"),
            pass_fds=[reading],
        )
        os.close(reading)
        assert done.code == 3 and "auth" in done.err, done.err
        assert len(endpoint.requests) == 1

    @pytest.mark.linux
    def test_a_command_that_hangs(self, cli, monkeypatch):
        """It is given up with everything that it started."""
        from batchrun.adapters.http import key_command
        from batchrun.errors import KeyUnavailableError

        monkeypatch.chdir(cli.folder)
        words = ["sh", "-c", "echo waiting for a person >&2; sleep 600 & echo $! >pid; wait"]
        began_s = time.monotonic()
        with pytest.raises(KeyUnavailableError, match="in time: waiting for a person"):
            key_command.output_of(words, lambda: False, timeout_s=0.5)
        assert time.monotonic() - began_s < 30
        child = int((cli.folder / "pid").read_text())
        deadline_s = time.monotonic() + 60
        while _lives(child):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    @pytest.mark.linux
    def test_what_a_command_leaves_running(self):
        """An agent that it started, and that holds on to its output, is not waited for."""
        from batchrun.adapters.http import key_command

        words = ["sh", "-c", "sleep 600 & echo $!"]
        began_s = time.monotonic()
        child = int(key_command.output_of(words, lambda: False))
        assert time.monotonic() - began_s < 30
        assert _lives(child)
        os.kill(child, signal.SIGKILL)


def _lives(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


class TestRenewal:
    @pytest.mark.slow
    def test_a_token_that_expires(self, cli, demanding, jsonl, until, published):
        """Rows that meet a 401 wait for one renewal, are sent again for free, and all succeed."""
        endpoint = demanding(OLD)
        key = cli.folder / "key"
        key.write_text(OLD)
        program = (
            "import time; open('ran','a').write('x'); time.sleep(0.3); print(open('key').read())"
        )
        live = cli.start(
            *("run", jsonl(400), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
            *("--api-key-command", _python(program), "--concurrency", 8, "--max-attempts", 1),
        )
        until(lambda: len(endpoint.requests) > 20)
        key.write_text(NEW)
        endpoint.taken.add(NEW)
        endpoint.taken.discard(OLD)
        done = live.wait()
        assert done.code == 0, done.err
        assert done.err.count("gave a new one") == 1
        assert (cli.folder / "ran").read_text() == "xx"
        keys = _keys(endpoint)
        refused = len(keys) - 400
        assert 1 <= refused <= 8  # no worker meets it twice
        contents = set(published(cli.folder / "run")["content"].to_pylist())
        assert contents == {"to old-one", "to new-one"}
        attempts = published(cli.folder / "run", "attempts")
        assert attempts.num_rows == len(keys)
        assert attempts["error_class"].to_pylist().count("auth") == refused
        cli.verified("run")

    def test_a_secret_that_rotates(self, cli, scripted, answer, jsonl):
        """The file is read again; a row that must be tried twice has both keys refused for free."""
        key = cli.folder / "key"
        key.write_text(OLD)

        def reply(_body, headers, nth):
            if nth == 1:
                key.write_text(NEW)
            return (200, {}, answer()) if headers["Authorization"].endswith(NEW) else REFUSED

        endpoint = scripted(reply)
        done = cli.run(
            *(jsonl(5), "-o", "run", "--base-url", endpoint.base_url, "--max-attempts", 1),
            *("--api-key-file", "key", "--concurrency", 1, "--json"),
        )
        assert done.code == 0, done.err
        assert len(endpoint.requests) == 6 and done.json["totals"]["attempts"] == 6

    @pytest.mark.parametrize("source", ["file", "command"])
    def test_the_same_key_again(self, cli, demanding, jsonl, source):
        """Nothing new to try: the run stops as it does for a key from a variable."""
        endpoint = demanding(NEW)
        (cli.folder / "key").write_text(OLD)
        flags = ("--api-key-file", "key") if source == "file" else ("--api-key-command", "cat key")
        done = cli.run(
            *(jsonl(9), "-o", "run", "--base-url", endpoint.base_url, "--json"),
            *(*flags, "--concurrency", 1),
        )
        assert done.code == 3 and done.json["stopped_by"] == "auth", done.err
        assert done.json["rows"]["pending"] == 9 and len(endpoint.requests) == 1
        assert "token_expired" in done.err or "expired" in done.err

    def test_a_renewed_key_that_is_refused_too(self, cli, demanding, jsonl):
        """Without an answer in between there is no third key, however many the command knows."""
        endpoint = demanding("nobody's")
        program = (
            "import os; open('ran','a').write('x'); "
            "print('sk-SECRET-number-%d' % os.path.getsize('ran'))"
        )
        done = cli.run(
            *(jsonl(9), "-o", "run", "--base-url", endpoint.base_url, "--json"),
            *("--api-key-command", _python(program), "--concurrency", 3),
        )
        assert done.code == 3 and done.json["stopped_by"] == "auth", done.err
        assert done.json["rows"]["pending"] == 9
        assert (cli.folder / "ran").read_text() == "xx"
        assert set(_keys(endpoint)) == {f"Bearer sk-SECRET-number-{n}" for n in (1, 2)}
        cli.verified("run")

    def test_a_row_that_no_key_opens(self, cli, scripted, answer, jsonl):
        """A command that never runs out of keys does not send one row for ever."""

        def reply(body, _headers, _nth):
            if body["messages"][0]["content"] == "question 3":
                time.sleep(0.05)
                return REFUSED
            return 200, {}, answer()

        endpoint = scripted(reply)
        program = "import time; print('sk-%f' % time.time())"
        done = cli.run(
            *(jsonl(2000), "-o", "run", "--base-url", endpoint.base_url, "--json"),
            *("--api-key-command", _python(program), "--concurrency", 2, "--max-attempts", 1),
        )
        assert done.code == 3 and done.json["stopped_by"] == "auth", done.err
        sent = [body["messages"][0]["content"] for _, _, body in endpoint.requests]
        assert sent.count("question 3") <= 4

    @pytest.mark.slow
    def test_a_command_that_fails_midway(self, cli, demanding, jsonl, until):
        """The run stops as auth and says why; the same command goes on."""
        endpoint = demanding(OLD)
        key = cli.folder / "key"
        key.write_text(OLD)
        command = (
            *("run", jsonl(250), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
            *("--api-key-command", "cat key", "--concurrency", 4, "--json"),
        )
        live = cli.start(*command)
        until(lambda: len(endpoint.requests) > 10)
        key.unlink()
        endpoint.taken.clear()
        done = live.wait()
        assert done.code == 3 and done.json["stopped_by"] == "auth", done.err
        assert "no other key could be had: the key command cat ended with exit code 1" in done.err
        assert done.json["rows"]["pending"] > 0 and done.json["rows"]["error"] == 0
        cli.verified("run")
        key.write_text(NEW)
        endpoint.taken.add(NEW)
        assert cli(*command).code == 0
        cli.verified("run")

    def test_a_stop_during_a_renewal(self, cli, demanding, jsonl, until):
        """It does not wait for the command, and what was sent stands in the ledger."""
        endpoint = demanding("nobody's")
        program = (
            "import os, time; open('ran','a').write('x'); "
            "time.sleep(60 * (os.path.getsize('ran') - 1)); print('sk-SECRET')"
        )
        live = cli.start(
            *("run", jsonl(9), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
            *("--api-key-command", _python(program), "--concurrency", 3, "--json"),
        )
        until(lambda: (cli.folder / "ran").exists() and (cli.folder / "ran").stat().st_size == 2)
        until(lambda: len(endpoint.requests) == 3)
        time.sleep(0.1)  # the replies to those are on their way
        began_s = time.monotonic()
        live.signal(signal.SIGINT)
        done = live.wait()
        assert done.code == 130, done.err
        assert time.monotonic() - began_s < 30
        assert done.json["totals"]["attempts"] == 3
        assert done.json["totals"]["unanswered_attempts"] == 0
        cli.verified("run")
