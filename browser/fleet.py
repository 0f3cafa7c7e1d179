"""`stekd dev` in a directory of its own, and the commands that speak to it."""

import os
import pathlib
import re
import shutil
import sqlite3
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEKD = pathlib.Path(os.environ.get("STEK_TEST_STEKD") or ROOT / "target/debug/stekd")

# How long anything may take before the test fails, in seconds.
PATIENCE = 60

# How many of the last lines of its log are shown when a test has failed.
LINES = 200


class Fleet:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="stekd-page-")
        self.log = open(pathlib.Path(self.folder) / "log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [STEKD, "dev", "--port-base", "0", "--dir", "site"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        # A fleet that does not start says nothing more, and ends here.
        guard = threading.Timer(PATIENCE, self.process.kill)
        guard.start()
        self.welcome = ""
        while "keyset rotate" not in self.welcome:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"stekd dev has ended\n{self.told()}")
            self.welcome += line
        guard.cancel()
        self.site = pathlib.Path(self.folder) / "site"
        self.url = re.search(r"status page +(\S+)", self.welcome).group(1)
        token = re.search(r"sign in with the content of (\S+)", self.welcome).group(1)
        self.token = pathlib.Path(token).read_text(encoding="utf-8").strip()

    def command(self, *arguments):
        profile = self.site / "operator.toml"
        done = subprocess.run(
            [STEKD, *arguments, "--profile", profile], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def must(self, *arguments):
        code, said = self.command(*arguments)
        assert code == 0, said
        return said

    def rotate(self, keyset):
        """A key seals for a whole second at least, so right after another it is too soon."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            code, said = self.command("keyset", "rotate", keyset)
            if code == 0:
                return said
            assert "just being activated" in said, said
        raise AssertionError("cannot rotate")

    def token_for(self, principal, role, keysets):
        path = self.site / f"{principal}-token"
        self.must("token", "create", principal, "--role", role, "--keyset", keysets, "--out", path)
        return path.read_text(encoding="utf-8").strip()

    def poll(self, keyset, token, instance):
        """One check-in of an instance that holds nothing; says whether it was answered."""
        # Its certificate is a development authority's; nothing depends on who answers.
        context = ssl._create_unverified_context()
        address = re.search(r"distribution +(\S+)", self.welcome).group(1)
        request = urllib.request.Request(f"{address}/v1/keysets/{keyset}")
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Stek-Instance", instance)
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
            return answer.status == 200

    def told(self):
        """The end of its log."""
        lines = pathlib.Path(self.log.name).read_text(encoding="utf-8").splitlines()
        return "\n".join([f"the end of the log of {self.folder}:", *lines[-LINES:]])

    def database(self, statement):
        with sqlite3.connect(self.site / "stekd.db", timeout=PATIENCE) as database:
            database.execute(statement)
        database.close()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()
        self.log.close()

    def remove(self):
        shutil.rmtree(self.folder)
