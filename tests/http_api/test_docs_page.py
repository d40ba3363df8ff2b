"""`/docs` in a real browser: the whole document, with nothing fetched from outside and no error."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.end_to_end.farm import Farm
from tests.http_api.conftest import Scene, problem

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "http_api" / "static"
expect.set_options(timeout=20_000)  # on a busy machine a browser takes its time
FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js", "docs.css")


@dataclass
class Opened:
    """The page, and all that it fetched and complained about."""

    page: Page
    fetched: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@pytest.fixture
def opened(farm: Farm, needs_program: Callable[[str], str]) -> Iterator[Opened]:
    # Names lead nowhere: what is not on this machine cannot be fetched, and is seen to have been asked for.
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=needs_program("chromium"), args=["--no-sandbox", "--disable-background-networking", nowhere]
        )
        try:
            opened = Opened(browser.new_page())
            opened.page.on("request", lambda request: opened.fetched.append(request.url))
            opened.page.on("requestfailed", lambda request: opened.faults.append(f"not fetched: {request.url}"))
            opened.page.on("pageerror", lambda error: opened.faults.append(f"thrown: {error}"))
            opened.page.on(
                "console", lambda said: opened.faults.append(said.text) if said.type in ("error", "warning") else None
            )
            opened.page.goto(f"{farm.hub.http_url}/docs")
            yield opened
        finally:
            browser.close()


def test_every_call_is_shown_with_nothing_from_outside_and_no_error(farm: Farm, opened: Opened) -> None:
    document = httpx.get(f"{farm.hub.http_url}/api/v1/openapi.json").json()
    calls = sum(len(methods) for methods in document["paths"].values())
    for tag in document["tags"]:
        opened.page.locator(f"#operations-tag-{tag['name']}").click()
    expect(opened.page.locator(".opblock")).to_have_count(calls)
    opened.page.locator("#operations-feeders-put_config .opblock-summary-control").click()
    body = opened.page.locator("#operations-feeders-put_config")
    expect(body).to_contain_text("daily_limit_g")
    expect(body).to_contain_text("Idempotency-Key")
    expect(body).to_contain_text("operator")
    assert opened.faults == []
    assert opened.fetched
    assert [url for url in opened.fetched if not url.startswith((farm.hub.http_url + "/", "data:"))] == []


def test_a_call_is_made_from_the_page_with_a_token(scene: Scene, opened: Opened) -> None:
    page = opened.page
    page.locator(".auth-wrapper .authorize").first.click()
    page.locator("[id='auth-bearer-value'], input[aria-label='auth-bearer-value']").first.fill(scene.farm.hub.token)
    page.locator(".auth-container .authorize").first.click()
    page.locator(".auth-container .btn-done").first.click()
    page.locator("#operations-tag-sites").click()
    call = page.locator("#operations-sites-get_site")
    call.locator(".opblock-summary-control").click()
    call.locator(".try-out__btn").click()
    call.locator("tr[data-param-name='site'] input").fill(scene.site.name)
    call.locator(".execute").click()
    answer = call.locator(".live-responses-table")
    expect(answer.locator(".response .response-col_status").first).to_contain_text("200")
    expect(answer).to_contain_text(scene.site.name)
    assert opened.faults == []


def test_nothing_but_this_hub_may_be_fetched_or_run(farm: Farm) -> None:
    for path in ("/docs", *(f"/docs/static/{name}" for name in FILES)):
        answer = httpx.get(farm.hub.http_url + path).raise_for_status()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_the_browser_has_already_is_not_sent_again(farm: Farm) -> None:
    for path in ("/docs", *(f"/docs/static/{name}" for name in FILES)):
        first = httpx.get(farm.hub.http_url + path)
        again = httpx.get(farm.hub.http_url + path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert httpx.head(farm.hub.http_url + path).headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize(
    "name", ["LICENSE", "docs.html", "%2e%2e", "%2e%2e%2fdocs.py", "..%2f..%2fapp.py", "nothing.js"]
)
def test_no_other_file_is_given_out(farm: Farm, name: str) -> None:
    problem(httpx.get(f"{farm.hub.http_url}/docs/static/{name}"), 404, "not-found")


def test_problems_still_have_their_page(farm: Farm) -> None:
    assert 'id="desktop-offline"' in httpx.get(f"{farm.hub.http_url}/docs/problems").text


def test_the_wheel_has_the_page_with_its_licences(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=50)
    (wheel,) = tmp_path.glob("*.whl")
    there = set(zipfile.ZipFile(wheel).namelist())
    for file in STATIC.rglob("*"):
        assert file.is_dir() or str(file.relative_to(ROOT)) in there, file
    assert {f"http_api/static/swagger-ui/{name}" for name in ("LICENSE", "NOTICE", "README.md")} <= there
