"""Pictures of a run directory's report: its top at three widths, light and dark, and its example browser.

Run from the repository's root: python benchmarks/screenshots.py RUN_DIR
They are written beside the report, as report-WIDTH-SCHEME.jpg and report-examples.jpg. Without Chromium there are none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

SIZES = ((390, 1400), (1280, 1500), (1920, 1300))


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    run_dir: Path = parser.parse_args().run_dir
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no pictures: there is no Chromium on this machine", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    address = (run_dir / "report.html").resolve().as_uri()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width, height in SIZES:
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto(address)
                page.locator(".plot .main-svg").first.wait_for()  # on a busy machine, that takes its time
                page.wait_for_timeout(2_000)  # the other figures near the top are drawn
                page.screenshot(path=run_dir / f"report-{width}-{scheme}.jpg", quality=72)
                page.close()
        page = browser.new_page(viewport={"width": 1280, "height": 960}, color_scheme="light")
        page.goto(address)
        page.evaluate("document.getElementById('examples').scrollIntoView()")
        page.locator("#example .answer").first.wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=run_dir / "report-examples.jpg", quality=72)
        browser.close()
    for path in sorted(run_dir.glob("report-*.jpg")):
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
