"""The demo page in a real browser: upload a clip, ask, and see the answer, also at the width of a phone."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crab_lightning import load_data
from crab_lightning.serving import demo
from tests.serving.test_server import Server, media, model  # noqa: F401 - fixtures

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def page(model: Any, small: dict[str, Path]) -> Iterator[Server]:  # noqa: F811
    data = load_data("data/av_uie_v2.yaml", root=str(small["mini"]))
    for spec in data.datasets.values():
        spec.classes = spec.classes or ["dog", "cat"]
    data.processor = model.processor
    with Server(model, demo=data, max_body_mb=20) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = str(shutil.which("chromium"))
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "no-first-run",
    ):
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.parametrize(("width", "dataset"), [(1280, "ave"), (400, "s4"), (400, "avqa")])
def test_clip_is_asked_about(
    page: Server,
    browser: Any,
    media: Path,  # noqa: F811
    width: int,
    dataset: str,
    tmp_path: Path,
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.set_window_size(width, 1100)
    browser.get(f"http://127.0.0.1:{page.port}/")
    wait = WebDriverWait(browser, 120)
    wait.until(lambda b: len(Select(b.find_element(By.ID, "dataset")).options) > 5)
    browser.find_element(By.ID, "clip").send_keys(str(media / "clip0.mp4"))
    browser.find_element(By.ID, "sound").send_keys(str(media / "clip0.wav"))
    Select(browser.find_element(By.ID, "dataset")).select_by_value(dataset)
    if dataset == "avqa":
        browser.find_element(By.ID, "question").send_keys("What is heard?")
    browser.find_element(By.ID, "ask").click()
    wait.until(
        lambda b: b.find_element(By.ID, "answer").is_displayed() or b.find_element(By.ID, "error").text
    )
    assert browser.find_element(By.ID, "error").text == ""
    assert browser.find_element(By.ID, "said").text
    assert browser.find_element(By.ID, "read").text
    shown = "#picture img" if dataset == "s4" else "#clipview img"
    assert browser.find_element(By.CSS_SELECTOR, shown).size["width"] > 100
    wide = browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    assert not wide, "the page is wider than the window"
    refused = [line for line in browser.get_log("browser") if "Content Security Policy" in line["message"]]
    assert refused == []
    browser.save_screenshot(str(tmp_path / "page.png"))


def test_page_runs_its_own_script_alone(page: Server, browser: Any) -> None:
    browser.get(f"http://127.0.0.1:{page.port}/")
    browser.execute_script(
        "const own = document.createElement('script'); own.textContent = 'window.foreign = true';"
        "document.body.append(own);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.foreign = true\">');"
    )
    assert browser.execute_script("return window.foreign") is None
    assert (
        browser.execute_script("return getComputedStyle(document.querySelector('h1')).fontSize") == "22.4px"
    )


def test_what_is_missing_is_said(page: Server, media: Path) -> None:  # noqa: F811
    body, kind = _form({"dataset": "avqa"}, media / "clip0.mp4")
    request = urllib.request.Request(f"http://127.0.0.1:{page.port}/demo/ask", body, {"Content-Type": kind})
    with pytest.raises(urllib.error.HTTPError) as err:
        urllib.request.urlopen(request, timeout=60)
    assert err.value.code == 400
    said = json.load(err.value)["error"]["message"]
    assert "question" in said
    assert "crab-demo" not in said


def test_picture_and_sound_are_taken_in_the_place_of_a_video(
    page: Server,
    media: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    made = demo.make_sample
    monkeypatch.setattr(
        demo, "make_sample", lambda *given, **more: asked.append(given) or made(*given, **more)
    )
    for name, said in (
        ("red.png", "needs `video`, or `image` with `audio`"),
        ("clip0.wav", "needs `image` or"),
    ):
        body, kind = _form({"dataset": "s4"}, media / name)
        request = urllib.request.Request(
            f"http://127.0.0.1:{page.port}/demo/ask", body, {"Content-Type": kind}
        )
        with pytest.raises(urllib.error.HTTPError) as err:
            urllib.request.urlopen(request, timeout=60)
        assert said in json.load(err.value)["error"]["message"]
    (_, _, videos, image, sounds, *_), (_, _, other, none, heard, *_) = asked
    assert ([*videos], image.name, [*sounds]) == ([], "clip.png", [])
    assert ([*other], none, [path.name for path in heard]) == ([], None, ["clip.wav"])


def test_server_without_the_page_has_none(model: Any) -> None:  # noqa: F811
    with Server(model) as plain, pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{plain.port}/", timeout=10)


def _form(fields: dict[str, str], clip: Path) -> tuple[bytes, str]:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--b\r\nContent-Disposition: form-data; name="clip"; filename="{clip.name}"\r\n\r\n'
    return (
        "".join(parts).encode() + head.encode() + clip.read_bytes() + b"\r\n--b--\r\n",
        "multipart/form-data; boundary=b",
    )
