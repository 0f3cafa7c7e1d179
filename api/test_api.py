"""The HTTP interfaces of `stekd dev`, each against the OpenAPI document that it serves.

Requests are drawn from the document by Schemathesis: those that it allows, and those that it does
not. No answer may be a failure of the server or one that is not described, and each operation must
have succeeded at least once, else nothing was tried.
"""

import argparse
import json
import os
import pathlib
import random
import re
import ssl
import subprocess
import sys
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "browser"))

from fleet import PATIENCE, Fleet  # noqa: E402

INTERFACES = ["manager", "distribution"]

# How long each interface is asked, in seconds, beyond what every operation is asked at least.
LONGEST = 50

# How many more times that is done, each twice as long as the one before, while an operation has not
# succeeded: a busy machine asks little in that time.
MORE = 4

# The tester has every role, so that nothing is left untried for want of a grant.
PRINCIPAL = "token:tester"
ROLES = ["manager", "distribution", "terminator", "auditor"]


class Interface:
    """One listener of a fleet of its own, for what is tried changes it."""

    def __init__(self, name):
        self.name = name
        self.fleet = Fleet()
        self.token = self.fleet.token_for("tester", "operator", "*")
        for role in ROLES:
            self.fleet.must("grant", "add", PRINCIPAL, "*", "--role", role)

    def address(self, name):
        return re.search(rf"{name} +(\S+)", self.fleet.welcome).group(1)

    def ask(self, url):
        """What the tester is answered."""
        context = ssl.create_default_context(cafile=self.fleet.site / "ca.pem")
        request = urllib.request.Request(url)
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
            return json.load(answer)

    def environment(self, answers):
        admin = f"{self.address('manager')}/admin/v1"
        tokens = self.ask(f"{admin}/tokens")["tokens"]
        seeds = self.ask(f"{admin}/ratchet")["seeds"]
        return os.environ | {
            "NO_COLOR": "1",
            "PYTHONPATH": str(HERE),
            "STEK_ANSWERS": str(answers),
            "STEK_SEED": next(one["seed"] for one in seeds if one["phase"] == "live"),
            "STEK_TESTER": PRINCIPAL,
            "STEK_TESTER_ID": next(one["id"] for one in tokens if one["principal"] == PRINCIPAL),
            "STEK_TOKEN": self.token,
        }

    def is_sound(self, seed, seconds, more):
        answers = pathlib.Path(self.fleet.folder) / "answers"
        answers.touch()
        document = f"{self.address(self.name)}/openapi.json"
        for spell in [seconds * 2**turn for turn in range(1 + MORE)]:
            command = [
                pathlib.Path(sys.executable).parent / "st",
                *("--config-file", HERE / "schemathesis.toml"),
                *("run", document, "--checks", "all"),
                *("--tls-verify", self.fleet.site / "ca.pem"),
                *("--seed", str(seed), "--max-time", str(spell)),
                *more,
            ]
            print(f"--- {self.name}, {spell} s", flush=True)
            environment = self.environment(answers)
            done = subprocess.run(command, env=environment, cwd=self.fleet.folder, check=False)
            if self.has_succeeded(answers, self.ask(document)) or done.returncode != 0:
                return done.returncode == 0
        return False

    def has_succeeded(self, answers, document):
        """Whether every operation was answered with success at least once; shows all answers."""
        counts = {
            f"{method.upper()} {path}": {}
            for path, operations in document["paths"].items()
            for method in operations
            # It has been read to get here.
            if path != "/openapi.json"
        }
        for line in answers.read_text(encoding="utf-8").splitlines():
            label, status = json.loads(line)
            counts[label][status] = counts[label].get(status, 0) + 1
        untried = []
        for label, statuses in sorted(counts.items()):
            shown = " ".join(f"{status}×{count}" for status, count in sorted(statuses.items()))
            print(f"{label:50} {shown}")
            if not any(200 <= status < 300 for status in statuses):
                untried.append(label)
        if untried:
            print(f"NEVER ANSWERED WITH SUCCESS: {', '.join(untried)}")
        return not untried


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--seconds", type=int, default=LONGEST)
    parser.add_argument("--only", choices=INTERFACES, help="one interface, else all")
    asked, more = parser.parse_known_args()
    print(f"seed {asked.seed}; the same again: api/run.sh --seed {asked.seed}", flush=True)
    failed = []
    for name in [asked.only] if asked.only else INTERFACES:
        interface = Interface(name)
        try:
            sound = interface.is_sound(asked.seed, asked.seconds, more)
        finally:
            interface.fleet.stop()
        if sound:
            interface.fleet.remove()
        else:
            print(interface.fleet.told(), flush=True)
            failed.append(f"{name}, whose log is {interface.fleet.log.name}")
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


main()
