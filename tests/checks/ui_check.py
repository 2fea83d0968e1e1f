"""Runs compared in the real MLflow UI, in headless Chromium.

    python tests/checks/ui_check.py ADDRESS FILE.png

ADDRESS is the charts' link that a sweep prints; the account is read from MLFLOW_TRACKING_USERNAME and _PASSWORD. Needs
Chromium and its driver (Debian's `chromium` and `chromium-driver`) and `pip install -e ".[stack]"`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")  # fmt: skip
SIZE = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
AXES = "return [...document.querySelectorAll('.xtitle, .ytitle')].map(item => item.textContent)"
WANTED = {"log10_params", "rfd_dinov2", "psnr"}
"""Titles of axes that must be on the page."""
CLOSED = (
    "mlflow.assistant.chat_panel.close",
    "mlflow.experiment_page.shared_view.dismiss",
    "mlflow_header.toggle_sidebar_button",
)
"""Buttons that put away what stands beside the charts."""


def look(address: str, account: Mapping[str, str], picture: Path) -> tuple[bool, str]:
    """Logs in, goes from the experiment's page to its charts and takes a picture; whether they show what they should,
    and what they show."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            server = urlsplit(address)
            login = f"{account['MLFLOW_TRACKING_USERNAME']}:{account['MLFLOW_TRACKING_PASSWORD']}"
            # The browser keeps the login for the pages that follow, whose own addresses must not hold it.
            browser.get(f"{server.scheme}://{login}@{server.netloc}/version")
            # From the experiment's page the charts are one click away.
            browser.get(address.partition("?")[0])
            link = (By.CSS_SELECTOR, "a[href*='viewStateShareKey']")
            WebDriverWait(browser, 120).until(expected_conditions.element_to_be_clickable(link)).click()
            # In a tab of its own, with a size of its own.
            browser.switch_to.window(browser.window_handles[-1])
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SIZE)
            axes: list[str] = []
            until = time.monotonic() + 120
            while time.monotonic() < until and not set(axes) >= WANTED:
                time.sleep(1)
                axes = browser.execute_script(AXES)
            for name in CLOSED:
                with contextlib.suppress(WebDriverException):
                    browser.find_element(By.CSS_SELECTOR, f"[data-component-id='{name}']").click()
            # Chromium without a mouse shows the charts' tools, which otherwise wait for one, on top of the points.
            browser.execute_script("document.head.append(Object.assign(document.createElement('style'), "
                                   "{textContent: '.modebar-container {display: none}'}))")  # fmt: skip
            time.sleep(5)
            points = browser.execute_script("return document.querySelectorAll('.scatterlayer .point').length")
            picture.parent.mkdir(parents=True, exist_ok=True)
            browser.save_screenshot(str(picture))
        finally:
            browser.quit()
    return set(axes) >= WANTED and points > 0, f"axes {', '.join(dict.fromkeys(axes))}; {points} points"


if __name__ == "__main__":
    shown = look(sys.argv[1], os.environ, Path(sys.argv[2]))
    print(shown[1])
    sys.exit(not shown[0])
