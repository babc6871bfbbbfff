"""A headless Chromium that reaches this machine and no other."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import import_peer


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's pages."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Selenium's driver of it; the test is skipped where there is none, if it may be."""
    selenium = import_peer("selenium.webdriver")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    driver_found = shutil.which("chromedriver")
    if not (found and driver_found):
        if os.environ.get("NBNORM_REQUIRE_PEERS") == "1":
            raise FileNotFoundError("chromium and chromedriver: apt install chromium-driver")
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = found
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root has none
        "--disable-dev-shm-usage",  # containers have little
        "--disable-background-networking",
        "--no-first-run",
        "--window-size=1200,900",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(executable_path=driver_found)
    driver = selenium.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def problems(driver: Any) -> list[str]:
    """What the console says, and the requests that failed, since this was last asked.

    Requests that began before are left out: Chromium starts with a page of its maker's.
    """
    said = [entry["message"] for entry in driver.get_log("browser")]
    asked: dict[str, str] = {}
    for entry in driver.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        given = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            asked[given["requestId"]] = given["request"]["url"]
        elif event["method"] == "Network.loadingFailed" and given["requestId"] in asked:
            said.append(f"{asked[given['requestId']]}: {given['errorText']}")
        elif event["method"] == "Network.responseReceived" and given["response"]["status"] >= 400:
            said.append(f"{given['response']['url']}: {given['response']['status']}")
    return said
