"""Draws docs/page.png: the page that people search with, over the demo's table, in a real browser.

    clipmill demo && python docs/make_page_picture.py demo-out/db/scenes

Needs Chromium (`apt-get install chromium`). The pictures on it are the demo's own drawings.
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

OUT = Path(__file__).with_name("page.png")
WORDS = "a house at night"
WIDTH, HEIGHT = 1180, 780
MOST_BYTES = 300_000
START_S = 300


def main(table: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no Chromium\nhint: apt-get install chromium")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "clipmill", "serve", table, "--port", str(port)])
    try:
        base = f"http://127.0.0.1:{port}"
        wait_for(server, f"{base}/api/search")
        take(browser, base)
    finally:
        server.terminate()
        server.wait()
    shrink()
    assert OUT.stat().st_size < MOST_BYTES, OUT.stat().st_size


def wait_for(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Until a search by words is answered: the model is loaded then."""
    body = b'{"text": "house", "k": 1}'
    for _ in range(START_S):
        if server.poll() is not None:
            sys.exit("error: the server ended; it said why")
        try:
            request = urllib.request.Request(url, body, {"content-type": "application/json"})
            urllib.request.urlopen(request, timeout=10).read()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    sys.exit(f"error: no answer within {START_S} s")


def take(browser: str, base: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = opened.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(base)
        page.wait_for_selector("#grid .card")
        page.keyboard.press("/")
        page.keyboard.type(WORDS)
        page.keyboard.press("Enter")
        page.wait_for_timeout(2500)  # the answers, and their pictures
        page.screenshot(path=str(OUT))
        opened.close()


def shrink() -> None:
    """To 128 colours, which the drawings hardly lose by."""
    from PIL import Image

    Image.open(OUT).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo-out/db/scenes")
