"""A real browser: Debian's Chromium, driven by playwright."""

import shutil

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture
def chromium():
    """A browser for one test, which is skipped where there is none. While it is open, no event loop
    can run in this process: a browser for all tests would end those of the rest.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium here (Debian and Ubuntu: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page as it was opened: ``page`` to ask it, ``said`` is what its console and its errors
    said, ``asked`` the addresses that it asked for.
    """

    def __init__(self, context, address):
        self.page = context.new_page()
        self.said, self.asked, self.dialogs = [], [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on(
            "dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss())
        )
        self.page.goto(address)

    def overflow(self):
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def visit(chromium):
    """Open an address in a window of its own: ``visit(address, width=390, scheme="dark")``."""
    contexts = []

    def opened(address, *, width=1440, scheme="light", scripts=True, offline=False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
            offline=offline,
        )
        contexts.append(context)
        return Visit(context, address)

    yield opened
    for context in contexts:
        context.close()
