"""Holds the pinned dependencies against the advisories of OSV, with pip-audit.

    python .ci/audit.py requirements/run.txt

Exit 0: nothing is known against them, or OSV cannot be reached, which one line says: a build must
not depend on somebody's server. Exit 1: something is known; each advisory is a line. Exit 2: the
audit itself went wrong. OSV_URL names another server that speaks OSV's query API.
"""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request

URL = "https://api.osv.dev/v1/query"
PROBE_S = 3.0
PROBE_IN_ALL_S = 6.0  # a resolver takes its own time, whatever the timeout of the connection
AUDIT_S = 120.0


def why_unreachable(url: str) -> str | None:
    """Why the server does not answer; None where it does."""
    reasons: list[str | None] = [f"no answer within {PROBE_IN_ALL_S:.0f} s"]

    def ask() -> None:
        request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=PROBE_S).close()
        except urllib.error.HTTPError as error:  # it does not know what was asked for: it answers
            reasons.append(f"status {error.code}" if error.code >= 500 else None)
        except OSError as error:
            reasons.append(str(getattr(error, "reason", error)))
        else:
            reasons.append(None)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_IN_ALL_S)
    return reasons[-1]


def audit(pins: str, url: str) -> int:
    """Ask about every pin; returns the exit code."""
    why = why_unreachable(url)
    if why is not None:
        print(f"not audited: {url} cannot be reached ({why})")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--requirement", pins, "--require-hashes"]
    # The file is complete and hashed, so nothing needs to be resolved or downloaded.
    command += [
        "--disable-pip",
        "--vulnerability-service",
        "osv",
        "--osv-url",
        url,
        "--format",
        "json",
    ]
    command += ["--progress-spinner", "off", "--desc=on", "--aliases=on"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_S, check=False)
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        why = why_unreachable(url)
        if why is not None:
            print(f"not audited: {url} cannot be reached any more ({why})")
            return 0
        words = f"{error!r}" if isinstance(error, subprocess.TimeoutExpired) else done.stderr
        print(f"the audit of {pins} failed:\n{words.strip()}", file=sys.stderr)
        return 2
    advisories = [(pin, advisory) for pin in found for advisory in pin.get("vulns", ())]
    for pin, advisory in advisories:
        names = " ".join([advisory["id"], *advisory["aliases"]])
        fixed = ", ".join(advisory["fix_versions"]) or "no version"
        print(f"{pin['name']} {pin['version']}: {names}, fixed in {fixed}", file=sys.stderr)
        print(f"  {' '.join(advisory['description'].split())}", file=sys.stderr)
    if advisories:
        return 1
    if not found:
        print(f"{pins} pins nothing", file=sys.stderr)
        return 2
    print(f"audited: nothing is known against the {len(found)} packages of {pins}")
    return 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1], os.environ.get("OSV_URL") or URL))
