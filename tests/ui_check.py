"""Runs compared in the real MLflow UI, in headless Chromium.

    python tests/ui_check.py ADDRESS FILE.png

ADDRESS is the charts' link that a sweep prints; the account is read from MLFLOW_TRACKING_USERNAME and _PASSWORD. Needs
Chromium and its driver (Debian's `chromium` and `chromium-driver`) and `pip install -e ".[stack]"`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
         "--window-size=1400,900")  # fmt: skip
CHARTS = (("log10_params", "rfd_dinov2"), ("log10_params", "psnr"))
"""Titles of axes that must be on the page."""


def look(address: str, account: Mapping[str, str], picture: Path) -> tuple[bool, str]:
    """Opens the charts, with the account's name and password, and takes a picture; whether they show what they should,
    and what they show."""
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = "/usr/bin/chromium"
        browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            server = urlsplit(address)
            login = f"{account['MLFLOW_TRACKING_USERNAME']}:{account['MLFLOW_TRACKING_PASSWORD']}"
            # The browser keeps the login for the addresses that follow, which must not hold it.
            browser.get(f"{server.scheme}://{login}@{server.netloc}/health")
            browser.get(f"{server.scheme}://{login}@{server.netloc}/version")
            browser.get(address)
            until = time.monotonic() + 90
            titles: list[str] = []
            while time.monotonic() < until and not all(name in titles for pair in CHARTS for name in pair):
                time.sleep(1)
                found = browser.execute_script(
                    "return [...document.querySelectorAll('.xtitle, .ytitle')].map(item => item.textContent)"
                )
                titles = [str(title) for title in found]
            time.sleep(3)
            points = browser.execute_script("return document.querySelectorAll('.scatterlayer .point').length")
            picture.parent.mkdir(parents=True, exist_ok=True)
            browser.save_screenshot(str(picture))
        finally:
            browser.quit()
    good = all(name in titles for pair in CHARTS for name in pair)
    return good, f"axes {', '.join(titles)}; {points} points"


if __name__ == "__main__":
    shown = look(sys.argv[1], os.environ, Path(sys.argv[2]))
    print(shown[1])
    sys.exit(not shown[0])
