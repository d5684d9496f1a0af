"""The review page in a real browser, its database, its numbers and what is applied."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.builder.review import ReviewStore, apply_verdicts, draw_sample, kappas, rates
from crab_lightning.builder.review.store import ReviewVerdict, wilson
from crab_lightning.commands import main
from crab_lightning.configuration.sections import tasks_and_datasets

HOSTILE = "<script>document.title='taken'</script> {{ 7 * 7 }} \"'&"
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
CHOSEN = ("ave", "s4", "avqa")


@pytest.fixture
def root(small: dict[str, Path], tmp_path: Path) -> Path:
    """A data root whose texts and one of whose file names are hostile."""
    copy = Path(shutil.copytree(small["mini"], tmp_path / "root"))
    path = copy / "AVUIE_2/ave/train.json"
    rows = json.loads(path.read_text())
    name = "<b onclick=x>'&.mp4"
    shutil.copy(copy / "AVUIE_2/ave/video" / rows[0]["video_path"], copy / "AVUIE_2/ave/video" / name)
    rows[0] |= {"video_path": name, "label_content": f"{HOSTILE} {rows[0]['label_content']}"}
    path.write_text(json.dumps(rows))
    return copy


@pytest.fixture
def store(root: Path) -> ReviewStore:
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", CHOSEN)
    made = ReviewStore(root / "review/review.sqlite")
    made.begin({"seed": 0}, lambda: draw_sample(root, tasks, datasets, 5, 0))
    return made


@pytest.fixture
def address(store: ReviewStore) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    from crab_lightning.builder.review import make_app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(store), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_accept_correct_reload_undo_and_continue_in_a_browser(
    address: str, store: ReviewStore, root: Path
) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    if not (CHROMIUM.is_file() and DRIVER.is_file()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER}")
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        # The page may be exchanged for the next one between finding an element and reading it.
        wait = WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException])

        def shown(name: str) -> str:
            return str(browser.find_element(By.ID, name).text)

        def row(number: int) -> None:
            wait.until(lambda b: b.find_elements(By.ID, "id") and shown("id") == items[number].id)

        items = store.items()
        hostile = next(i for i, item in enumerate(items) if HOSTILE in item.text)
        browser.get(f"{address}/?name=Ann&item={hostile}")
        assert shown("text") == items[hostile].text
        assert browser.title == "Review"
        assert "<b onclick=x>'&.mp4" in browser.find_element(By.TAG_NAME, "dl").text
        played = "return new Promise(done => {const v = document.querySelector('video'); v.muted = true;"
        played += " v.ontimeupdate = () => v.currentTime > 0 && done(v.videoWidth); v.play()})"
        assert browser.execute_script(played) > 0
        spatial = next(i for i, item in enumerate(items) if item.dataset == "s4")
        browser.get(f"{address}/?name=Ann&item={spatial}")
        x1, y1, x2, _ = items[spatial].box
        box = browser.find_element(By.TAG_NAME, "rect")
        assert [float(box.get_attribute(k)) for k in ("x", "y", "width")] == [x1, y1, x2 - x1]
        assert len(browser.find_elements(By.TAG_NAME, "circle")) == 3

        browser.get(address)
        browser.find_element(By.ID, "name").send_keys("Ann\n")
        row(0)
        browser.find_element(By.TAG_NAME, "body").send_keys("a")
        row(1)
        corrected = browser.find_element(By.ID, "corrected")
        corrected.clear()
        corrected.send_keys("A better text.")
        browser.find_element(By.ID, "note").send_keys("a note")
        browser.find_element(By.ID, "correct").click()
        row(2)
        browser.refresh()
        row(2)
        assert shown("progress") == "2 of 5"
        browser.find_element(By.TAG_NAME, "body").send_keys("r")
        row(3)
        browser.find_element(By.TAG_NAME, "body").send_keys("u")
        row(2)
        said = ReviewStore(store.path).verdicts()
        assert said[1, "Ann"] == ReviewVerdict(1, "Ann", "correct", "A better text.", "a note")
        assert sorted(v.kind for v in said.values()) == ["accept", "correct"]
        browser.get(f"{address}/summary")
        assert "50.0 %" in browser.find_element(By.TAG_NAME, "table").text
    finally:
        browser.quit()


def test_the_page_answers_this_machine_only(address: str) -> None:
    import urllib.error
    import urllib.request

    def status(path: str, data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(f"{address}{path}", data, headers)
        try:
            return int(urllib.request.urlopen(request, timeout=10).status)
        except urllib.error.HTTPError as err:
            return err.code

    told = json.dumps({"item": 0, "reviewer": "B", "kind": "accept", "text": "", "note": ""}).encode()
    assert status("/") == 200
    assert status("/", Host="evil.example") == 403
    assert status("/verdict", told, Origin="http://evil.example") == 403
    assert status("/verdict", told) == 200
    assert status("/verdict", told.replace(b"accept", b"perhaps")) == 422
    assert status("/media/0/dataset/0") == 404
    assert status("/media/0/videos/99") == 404


def test_applied_verdicts_change_the_manifest_and_nothing_else(store: ReviewStore, root: Path) -> None:
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", CHOSEN)
    items = store.items()
    first, second = (i for i, item in enumerate(items) if item.dataset == "ave")
    path = root / "AVUIE_2/ave/train.json"
    before = json.loads(path.read_text())
    store.add(ReviewVerdict(first, "Ann", "reject"))
    better = f"Better said. {items[second].text}"
    store.add(ReviewVerdict(second, "Ann", "correct", better))
    store.add(ReviewVerdict(first, "Bob", "accept"))
    with pytest.raises(ValueError, match=r"Ann and Bob disagree about ave/.*\(reject and accept\)"):
        apply_verdicts(root, tasks, datasets, store)
    assert json.loads(path.read_text()) == before
    for _ in range(2):  # a second call changes nothing more
        counts = apply_verdicts(root, tasks, datasets, store, "Ann")
        assert counts == {"ave": {"reject": 1, "correct": 1}}
        after = json.loads(path.read_text())
        assert after == [before[items[second].row] | {"label_content": better}]
    assert json.loads((root / "AVUIE_2/ave/train.before_review.json").read_text()) == before
    # A second review of the corrected rows keeps what the first one kept.
    other = ReviewStore(store.path.with_name("other.sqlite"))
    other.begin({"seed": 2}, lambda: draw_sample(root, tasks, {"ave": datasets["ave"]}, 1, 0))
    other.add(ReviewVerdict(0, "Bob", "accept"))
    apply_verdicts(root, tasks, datasets, other)
    assert json.loads((root / "AVUIE_2/ave/train.before_review.json").read_text()) == after
    kept = root / "AVUIE_2/ave/train.before_review.json-2"
    kept.replace(root / "AVUIE_2/ave/train.before_review.json")
    assert json.loads((root / "AVUIE_2/ave/train.before_review.json").read_text()) == before
    for wrong, why in (
        ("New text.", "its answer cannot be read"),
        (re.sub(r"\((\d+) (\d+)\)", "(0 1)", better), "its answer is not the right one"),
    ):
        store.add(ReviewVerdict(second, "Ann", "correct", wrong))
        with pytest.raises(
            ValueError, match=rf"row \d+ \(ave/.*that Ann has corrected cannot be used: {why}"
        ):
            apply_verdicts(root, tasks, datasets, store, "Ann")
        assert json.loads(path.read_text()) == after
    store.add(ReviewVerdict(second, "Ann", "correct", better))
    path.write_text(json.dumps([]))
    with pytest.raises(ValueError, match="no longer has the text that was reviewed"):
        apply_verdicts(root, tasks, datasets, store, "Ann")


def test_numbers_of_the_summary(store: ReviewStore) -> None:
    # 8 of 10: the interval that R's binom.confint(8, 10, methods = "wilson") prints
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    said = [ReviewVerdict(i, "A", k) for i, k in enumerate(("accept", "accept", "reject", "reject"))]
    said += [ReviewVerdict(i, "B", k) for i, k in enumerate(("accept", "reject", "reject", "reject"))]
    # agreement 3/4, by chance 2/4 * 1/4 + 2/4 * 3/4 = 1/2
    assert kappas(said) == [("A", "B", 4, pytest.approx(0.5))]
    found: dict[str, Any] = {r.dataset: r for r in rates(store.items(), said)}
    assert found["all"].counts == {"accept": 3, "reject": 5}
    assert found["all"].rate == 3 / 8


def test_the_sample_is_drawn_by_the_seed_from_every_dataset(root: Path, store: ReviewStore) -> None:
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", CHOSEN)
    one, other = (draw_sample(root, tasks, datasets, 3, 7) for _ in range(2))
    assert one == other
    assert {item.dataset for item in one} == set(CHOSEN)
    with pytest.raises(ValueError, match="contains a review with"):
        store.begin({"seed": 1}, lambda: one)


def test_a_port_in_use_is_one_error_before_the_line_with_the_address(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        words = ["--root", str(root), "--only", ",".join(CHOSEN), "--sample", "5", "--port", port]
        assert main(["build", "review", *words]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: --port {port} is in use on 127.0.0.1; ")
    assert not said.out
