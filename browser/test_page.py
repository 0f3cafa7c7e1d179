"""The status page of `stekd dev` in a real Chromium; screenshots go to target/screenshots/."""

import os
import re
import sys
import threading
import unittest

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, expect, sync_playwright

from fleet import PATIENCE, ROOT, Fleet

SCREENSHOTS = ROOT / "target/screenshots"
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}

# What Chromium says of requests that it gives up because an interface of the machine came or went.
NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"

# Remembers what the content security policy refused.
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.refused.push(event.violatedDirective + " " + event.blockedURI + " " + event.sourceFile);
});
"""


class Browser:
    """One Chromium and one fleet for all tests."""

    @classmethod
    def start(cls):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        cls.fleet = Fleet()
        cls.fleet.must("keyset", "create", "edge.eu", "--rotation-period", "1h")
        cls.fleet.must(
            "keyset", "create", "mail", "--rotation-period", "15m", "--ticket-lifetime", "1h"
        )
        # Fast enough to have keys in every state before the first picture.
        cls.fleet.must(
            "keyset", "create", "canary", "--rotation-period", "10s", "--ticket-lifetime", "10s"
        )
        cls.playwright = sync_playwright().start()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        cls.chromium = cls.playwright.chromium.launch(
            executable_path=os.environ["STEK_TEST_CHROMIUM"], args=sandbox
        )

    @classmethod
    def stop(cls):
        cls.chromium.close()
        cls.playwright.stop()
        cls.fleet.stop()
        cls.told = cls.fleet.told()
        cls.fleet.remove()


def setUpModule():
    expect.set_options(timeout=PATIENCE * 1000)
    Browser.start()


def tearDownModule():
    Browser.stop()


class Page(unittest.TestCase):
    def setUp(self):
        self.fleet = Browser.fleet
        self.said = []

    def open(self, viewport=None, sign_in=True, **options):
        viewport = viewport or WIDE
        context = Browser.chromium.new_context(
            viewport=viewport, ignore_https_errors=True, **options
        )
        self.addCleanup(context.close)
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("console", self.hear)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.go(page, self.fleet.url)
        if sign_in:
            self.sign_in(page, self.fleet.token)
            # What is pressed before the page is there goes to the one that it takes the place of.
            page.wait_for_url(self.fleet.url)
        return page

    def hear(self, line):
        # That is of this machine, where an interface came or went; the page asks again.
        if NETWORK_CHANGED not in line.text:
            self.said.append(f"{line.type}: {line.text}")

    def go(self, page, url):
        for _ in range(10):
            try:
                return page.goto(url)
            except Error as error:
                if NETWORK_CHANGED not in str(error):
                    raise
        return page.goto(url)

    def sign_in(self, page, token):
        page.get_by_label("Token of an operator").fill(token)
        page.get_by_role("button", name="Sign in").click()

    def is_quiet(self, page):
        """Nothing in the console, and nothing refused by the policy."""
        self.assertEqual(self.said, [])
        self.assertEqual(page.evaluate("window.refused"), [])

    def is_accessible(self, page):
        found = Axe().run(page)
        self.assertEqual(found.violations_count, 0, found.generate_report())

    def fits(self, page):
        wide = page.evaluate("document.documentElement.scrollWidth")
        self.assertLessEqual(wide, page.viewport_size["width"], "scrolls sideways")

    def shoot(self, page, name):
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def revision(self, page, keyset):
        return page.locator(f"#keyset-{keyset}".replace(".", r"\."))

    def test_only_who_has_a_token_looks(self):
        page = self.open(sign_in=False)
        self.assertTrue(page.url.endswith("/status/login"), page.url)
        self.is_accessible(page)
        self.shoot(page, "sign-in")
        self.sign_in(page, "stek_" + "0" * 64)
        expect(page.get_by_role("alert")).to_contain_text("not known")
        terminator = (self.fleet.site / "terminator-token").read_text(encoding="utf-8").strip()
        self.sign_in(page, terminator)
        expect(page.get_by_role("alert")).to_contain_text("neither an operator's nor an auditor's")
        self.said.clear()  # Chromium says the status of what was refused.
        self.sign_in(page, self.fleet.token)
        # A test before this one may have left a warning.
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Rotation "))
        cookies = page.context.cookies()
        self.assertEqual(len(cookies), 1)
        cookie = cookies[0]
        self.assertTrue(cookie["httpOnly"] and cookie["secure"])
        self.assertEqual(cookie["sameSite"], "Strict")
        self.assertNotIn(self.fleet.token[5:], cookie["value"])
        self.assertEqual(page.evaluate("document.cookie"), "")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/status/login")
        self.go(page, self.fleet.url)
        self.assertTrue(page.url.endswith("/status/login"))
        # Whoever kept the cookie has nothing.
        page.context.add_cookies(cookies)
        self.go(page, self.fleet.url)
        self.assertTrue(page.url.endswith("/status/login"))
        self.is_quiet(page)

    def test_it_shows_what_there_is(self):
        for scheme in ["light", "dark"]:
            page = self.open(color_scheme=scheme)
            self.assertEqual(page.title(), "Keysets · stekd")
            for keyset in ["main", "edge.eu", "mail"]:
                expect(page.get_by_role("link", name=keyset, exact=True).first).to_be_visible()
                expect(page.get_by_role("img", name=f"Timeline of the keys of {keyset}")).to_be_visible()
            expect(page.get_by_text("next rotation in").first).to_be_visible()
            expect(page.locator("#events")).to_contain_text("keyset-created")
            self.is_accessible(page)
            self.shoot(page, f"overview-{scheme}")
            ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            channel = int(re.match(r"rgb\((\d+)", ground).group(1))
            self.assertEqual(channel < 100, scheme == "dark", ground)
            page.get_by_role("link", name="mail", exact=True).first.click()
            page.wait_for_url("**/status/keysets/mail")
            expect(page.get_by_role("heading", level=2, name="mail")).to_be_visible()
            rows = page.locator("#keys tbody tr")
            self.assertGreaterEqual(rows.count(), 2)
            expect(page.locator("#keys tr[data-state=active]")).to_have_count(1)
            self.is_accessible(page)
            self.shoot(page, f"keyset-{scheme}")
            self.is_quiet(page)

    def test_it_follows_a_rotation_without_being_loaded_again(self):
        page = self.open()
        expect(page.locator("#live")).to_have_text("Live")
        page.evaluate("window.mark = 'here'")
        page.locator("#summary-main").click()
        active = page.locator("#keys-main tr[data-state=active] code").first
        before = active.inner_text()
        events = page.locator("#events li").first.inner_text()
        self.fleet.rotate("main")
        expect(active).not_to_have_text(before)
        expect(page.locator("#events li").first).not_to_have_text(events)
        expect(page.locator("#events li[data-action=key-rescheduled]").first).to_contain_text("main")
        self.assertEqual(page.evaluate("window.mark"), "here", "not loaded again")
        self.assertTrue(page.locator("#keys-main").evaluate("node => node.open"), "stays open")
        self.assertEqual(page.evaluate("document.activeElement.id"), "summary-main")
        # A keyset that comes, and goes.
        self.fleet.must("keyset", "create", "short-lived")
        expect(page.locator("#keyset-short-lived")).to_be_visible()
        self.fleet.must("keyset", "delete", "short-lived", "--yes", "--wait", "0s")
        expect(page.locator("#keyset-short-lived")).to_have_count(0)
        self.assertEqual(page.evaluate("window.mark"), "here")
        self.is_quiet(page)

    def test_it_fits_a_telephone(self):
        for scheme in ["light", "dark"]:
            page = self.open(NARROW, color_scheme=scheme)
            page.locator("#summary-mail").click()
            self.fits(page)
            self.is_accessible(page)
            self.shoot(page, f"telephone-{scheme}")
            self.go(page, f"{self.fleet.url}/keysets/mail")
            self.fits(page)
            self.shoot(page, f"telephone-keyset-{scheme}")
        page = self.open(NARROW, sign_in=False)
        self.fits(page)
        self.shoot(page, "telephone-sign-in")

    def test_keys_lead_through_it_in_order(self):
        page = self.open()
        order = []
        for _ in range(16):
            page.keyboard.press("Tab")
            order.append(
                page.evaluate(
                    "(e => e.id || e.textContent.trim() || e.tagName)(document.activeElement)"
                )
            )
        wanted = ["Skip to content", "stekd", "Sign out", "q", "only", "Show"]
        wanted += ["link-canary", "summary-canary", "link-edge.eu", "summary-edge.eu", "link-mail", "summary-mail"]
        wanted += ["link-main", "summary-main"]
        self.assertEqual(order[: len(wanted)], wanted)
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        self.assertEqual(style, "solid", "focus can be seen")
        page.locator("#summary-mail").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#keys-mail table")).to_be_visible()
        page.locator("#q").fill("mai")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=mai*")
        expect(page.locator("#counted")).to_have_text("2 of 4 keysets")
        self.is_quiet(page)

    def test_it_does_without_script(self):
        page = self.open(java_script_enabled=False)
        expect(page.get_by_role("heading", level=1)).to_have_text("Rotation is healthy")
        expect(page.locator("#live")).to_contain_text("Reloads every 15 s")
        self.assertRegex(page.content(), r'<meta http-equiv="refresh" content="15"')
        page.locator("#summary-mail").click()
        expect(page.locator("#keys-mail table")).to_be_visible()
        self.shoot(page, "without-script")

    def test_nothing_foreign_runs(self):
        page = self.open()
        answer = page.request.get(self.fleet.url)
        policy = answer.headers["content-security-policy"]
        for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"]:
            self.assertIn(part, policy)
        self.assertNotIn("unsafe", policy)
        # The watch works: what the policy refuses is seen.
        page.evaluate(
            """() => { const image = new Image(); image.src = "https://localhost:1/x.png";
                       document.body.append(image); }"""
        )
        page.wait_for_function("window.refused.some(line => line.startsWith('img-src'))")

    def test_alarms_come_and_go(self):
        page = self.open(color_scheme="dark")
        expect(page.locator("#verdict")).to_have_attribute("data-verdict", "sound")
        self.fleet.database("ALTER TABLE keysets RENAME TO keysets_away")
        try:
            expect(page.locator("#notices")).to_contain_text("the database failed")
            expect(page.locator("#verdict")).to_have_attribute("data-verdict", "alarm")
            self.assertEqual(page.title(), "⚠ Keysets · stekd")
            self.is_accessible(page)
            self.shoot(page, "alarm-dark")
            page.emulate_media(color_scheme="light")
            self.is_accessible(page)
            self.shoot(page, "alarm-light")
            page.set_viewport_size(NARROW)
            self.fits(page)
            self.shoot(page, "telephone-alarm")
        finally:
            self.fleet.database("ALTER TABLE keysets_away RENAME TO keysets")
        expect(page.locator("#verdict")).to_have_attribute("data-verdict", "sound")
        self.is_quiet(page)

    def test_laggards_are_named_whatever_they_call_themselves(self):
        token = self.fleet.token_for("edge", "terminator", "canary")
        name = "<img/src=x/onerror=alert(1)>"
        page = self.open(color_scheme="dark")
        page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        over = threading.Event()

        def poll():
            while not over.wait(0.5):
                self.fleet.poll("canary", token, name)

        polls = threading.Thread(target=poll)
        polls.start()
        self.addCleanup(polls.join)
        self.addCleanup(over.set)
        expect(page.locator("#keyset-canary .spread")).to_contain_text(f"Lagging: {name}")
        expect(page.locator("#notices")).to_contain_text("1 keyset: instances lag")
        expect(page.locator("#keyset-main .spread")).to_have_text("2 of 2 instances confirmed")
        self.is_accessible(page)
        self.shoot(page, "laggard-dark")
        self.go(page, f"{self.fleet.url}/keysets/canary")
        expect(page.locator("#instances tbody th")).to_have_text(name)
        self.shoot(page, "laggard-keyset-dark")
        page.set_viewport_size(NARROW)
        self.fits(page)
        self.is_quiet(page)

    def test_one_keyset_is_shown_to_whom_it_was_granted(self):
        token = self.fleet.token_for("mail-auditor", "auditor", "mail")
        page = self.open(sign_in=False)
        self.sign_in(page, token)
        expect(page.locator("article.keyset")).to_have_count(1)
        self.go(page, f"{self.fleet.url}/keysets/main")
        expect(page.get_by_role("heading", level=1)).to_have_text("No such keyset")

    def test_it_says_when_the_manager_is_gone(self):
        other = Fleet()
        self.addCleanup(other.remove)
        self.fleet = other
        page = self.open()
        expect(page.locator("#live")).to_have_text("Live")
        other.stop()
        expect(page.locator("#live")).to_contain_text("Connection lost")
        self.shoot(page, "connection-lost")


if __name__ == "__main__":
    if not unittest.main(verbosity=2, exit=False).result.wasSuccessful():
        sys.exit(getattr(Browser, "told", "the fleet did not start"))
