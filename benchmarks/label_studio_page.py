"""Labels two rounds in the page of a real Label Studio server, by clicks in Chromium.

    python -m venv ls && ls/bin/pip install label-studio
    pip install selenium
    python -m benchmarks.label_studio_page --executable ls/bin/label-studio \
        --chromedriver chromedriver --screenshots shots

This does what `benchmarks.label_studio` does by the API, as a person does it: it logs
in, imports tasks.json, looks at each image, clicks a class and Submit, and downloads
the export. Only the project and its local storage are created by the API. Chromium runs
without a window; the screenshots show what a person sees.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from benchmarks import label_studio as api
from fkjax.labeling.answers import CANNOT_TELL

PATIENCE = 120  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--executable", required=True, help="path of label-studio in its environment")
    add("--chromedriver", required=True, help="path of ChromeDriver")
    add("--screenshots", required=True, type=Path, help="folder of the screenshots")
    given = parser.parse_args()
    given.screenshots.mkdir(parents=True, exist_ok=True)
    driver = shutil.which(given.chromedriver) or given.chromedriver
    with tempfile.TemporaryDirectory(prefix="fkjax-label-studio-") as name:
        home = Path(name)
        truth = api._make_images(home)
        api._run(home, home / "out")
        with api._serving(given.executable, home) as url:
            page = _Page(url, home, driver, given.screenshots)
            try:
                _label(api._Server(url), page, home, truth)
            finally:
                page.close()


def _label(server: Any, page: "_Page", home: Path, truth: dict[str, str]) -> None:
    out = home / "out"
    project = api._project(server, out)
    storage = {"project": project, "path": str(home / "my images"), "title": "images"}
    server.post("/api/storages/localfiles", storage | {"use_blob_urls": True})
    page.log_in()
    for number, kind in enumerate(("JSON", "JSON_MIN"), start=1):
        page.import_tasks(project, out / "label_studio" / "tasks.json")
        there = api._tasks(server, project)
        mine = [task for task in there if task["data"]["round"] == number]
        assert len(mine) == api.BUDGET, len(mine)
        for place, task in enumerate(mine):
            choice = CANNOT_TELL if place == 0 else truth[task["data"]["file"]]
            page.annotate(project, task, choice, f"round-{number}-task-{place + 1}")
        print(f"round {number}: annotated {len(mine)} tasks by clicks")
        page.export(project, kind).rename(out / "label_studio" / "export.json")
        api._run(home, out)
        api._require_taken(out, number, truth)


class _Page:
    """A person's browser."""

    def __init__(self, url: str, home: Path, driver: str, screenshots: Path):
        self._url, self._screenshots = url, screenshots
        self._downloads = home / "downloads"
        self._downloads.mkdir()
        options = webdriver.ChromeOptions()
        for flag in ("headless=new", "no-sandbox", "window-size=1400,1000"):
            options.add_argument(f"--{flag}")
        folder = {"download.default_directory": str(self._downloads)}
        options.add_experimental_option("prefs", folder)
        self._browser = webdriver.Chrome(options=options, service=Service(driver))

    def close(self) -> None:
        self._browser.quit()

    def log_in(self) -> None:
        self._browser.get(f"{self._url}/user/login/")
        self._find("[name=email]").send_keys("fkjax@example.com")
        self._find("[name=password]").send_keys(api.TOKEN)
        self._find("[type=submit]").click()
        self._wait(lambda: "login" not in self._browser.current_url, "the login")

    def import_tasks(self, project: int, path: Path) -> None:
        self._browser.get(f"{self._url}/projects/{project}/data/import")
        self._wait(lambda: self._all("input[type=file]"), "the import")
        self._all("input[type=file]")[0].send_keys(str(path))
        finish = "[aria-label='Finish import']"
        self._wait(lambda: path.name in self._text(), "the upload")
        self._wait(lambda: self._find(finish).is_enabled(), "the upload")
        self._find(finish).click()
        self._wait(lambda: not self._all(finish), "the end of the import")
        self._browser.get(f"{self._url}/projects/{project}/data")
        self._wait(lambda: "Label All Tasks" in self._text(), "the list of tasks")
        self._shoot("tasks")

    def annotate(
        self, project: int, task: dict[str, Any], choice: str, name: str
    ) -> None:
        """Looks at the image of a task, clicks a choice and Submit."""
        self._browser.get(f"{self._url}/projects/{project}/data?task={task['id']}")
        submit = "[aria-label='Submit current annotation']"
        self._wait(lambda: self._all(submit) and self._has_image(), f"task {name}")
        assert task["data"]["reason"] in self._text(), "the reason is not shown"
        items = self._all(".lsf-choice__item")
        (item,) = [i for i in items if i.text.split("[")[0].strip() == choice]
        bottom = self._browser.execute_script("return window.innerHeight")
        assert item.rect["y"] + item.rect["height"] < bottom, "the choice is not seen"
        if not item.find_element(By.TAG_NAME, "input").is_selected():  # by the guess
            item.find_element(By.TAG_NAME, "label").click()
        self._shoot(name)
        self._find(submit).click()
        self._wait(lambda: not self._all(submit), "the submission")

    def export(self, project: int, kind: str) -> Path:
        """Downloads the export of a project in the format JSON or JSON_MIN."""
        self._browser.get(f"{self._url}/projects/{project}/data/export")
        label = kind.replace("_", "-")
        self._wait(lambda: self._clicked(f"//*[text()='{label}']"), "the formats")
        assert label in self._find("[class*=formats__item_selected]").text
        self._wait(lambda: self._clicked("//button[.='Export']"), "the button")
        self._wait(lambda: list(self._downloads.glob("*.json")), "the export")
        (path,) = self._downloads.glob("*.json")
        json.loads(path.read_bytes())
        return path

    def _clicked(self, path: str) -> bool:
        """Clicks the last element of an XPath; returns whether there is one."""
        found = self._browser.find_elements(By.XPATH, path)
        if found:  # at its left: a format is clicked on its name
            left = 10 - int(found[-1].size["width"] // 2)
            mouse = ActionChains(self._browser)
            mouse.scroll_to_element(found[-1])
            mouse.move_to_element_with_offset(found[-1], left, 0).click().perform()
        return bool(found)

    def _has_image(self) -> bool:
        """Returns whether a large image has been loaded."""
        sizes = "return [...document.images].map(i => [i.naturalWidth, i.width])"
        found = self._browser.execute_script(sizes)
        return any(natural == 8 and shown > 200 for natural, shown in found)

    def _find(self, selector: str) -> WebElement:
        return self._browser.find_element(By.CSS_SELECTOR, selector)

    def _all(self, selector: str) -> list[WebElement]:
        return self._browser.find_elements(By.CSS_SELECTOR, selector)

    def _text(self) -> str:
        return self._find("body").text

    def _shoot(self, name: str) -> None:
        path = self._screenshots / f"{name}.png"
        assert self._browser.save_screenshot(str(path)), path

    def _wait(self, is_so: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(StaleElementReferenceException):  # is redrawn
                if is_so():
                    break
            if time.monotonic() > until:
                self._shoot("failed")
                raise SystemExit(f"{what} did not come: see failed.png")
            time.sleep(0.5)
        time.sleep(1)  # for what the page still draws


if __name__ == "__main__":
    main()
