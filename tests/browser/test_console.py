"""An operator at work: an event fails, its error is read, its cause is mended, it is handled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.browser.service import TOKEN, Service
from tests.browser.visit import Visit, visiting
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser

CONSOLE = "/admin/console"

FOCUSED = """() => {
  const one = document.activeElement;
  const name = one.getAttribute("aria-label") || one.innerText || one.labels?.[0]?.innerText;
  return { name: name || "", outline: getComputedStyle(one).outlineStyle };
}"""


async def _poison(service: Service, depot: str, *, status: str = "dead_lettered") -> str:
    """Have an event fail for good; return its id."""
    event_id = await service.receive("parcel.sent", id=f"to-{depot}", depot=depot)

    async def put_aside() -> bool:
        return await service.inbox_status(event_id) == status

    await eventually(put_aside, limit=30, what="the event's failure")
    return event_id


async def _is_processed(visit: Visit, event_id: str) -> None:
    """Look into the inbox, as a person does, until it says so."""

    async def processed() -> bool:
        await visit.go(f"{CONSOLE}/inbox?event_id={event_id}")
        seen: bool = await visit.page.get_by_role("cell", name="Processed").is_visible()
        return seen

    await eventually(processed, limit=30, what="Processed in the inbox")


async def test_a_poison_event_is_found_read_mended_and_replayed(
    browser: Browser, service: Service
) -> None:
    event_id = await _poison(service, "east")
    async with visiting(browser, service) as visit:
        page = visit.page
        await visit.log_in()
        letters = page.locator('[data-figure="letters"]')
        assert re.search(r"Dead letters\s+1\s+event", await letters.inner_text())

        await page.get_by_role("navigation").get_by_role("link", name="Dead letters").click()
        row = page.get_by_role("row").filter(has_text=event_id)
        assert "there is no depot 'east'" in await row.inner_text()
        await row.get_by_role("link", name="parcel.sent").click()
        said = await visit.text()
        assert "there is no depot 'east'" in said
        assert "<b>nobody</b>" in said, "as text"
        assert '"depot": "east"' in said

        service.know_depot("east")
        await page.get_by_role("button", name="Replay it").click()
        await page.get_by_role("status").filter(has_text="is back on its subject").wait_for()
        await page.get_by_text("No dead letters").wait_for()
        await _is_processed(visit, event_id)

        await page.get_by_role("button", name="Log out").click()
        await page.get_by_label("Token").wait_for()
        await page.go_back()
        await page.get_by_label("Token").wait_for()  # nothing of it was kept by the browser
        assert visit.complaints == []


async def _tab_to(visit: Visit, name: str, *, most: int = 60) -> None:
    """Press Tab until something called `name` has the focus, which must be seen."""
    for _ in range(most):
        await visit.page.keyboard.press("Tab")
        found = await visit.page.evaluate(FOCUSED)
        assert found["outline"] != "none", f"the focus on {found['name']!r} cannot be seen"
        if found["name"].strip().startswith(name):
            return
    raise AssertionError(f"the keyboard does not get to {name!r}")


async def test_everything_goes_by_keyboard(browser: Browser, service: Service) -> None:
    left = await _poison(service, "nowhere")
    mended = [await _poison(service, depot) for depot in ("east", "west")]
    service.know_depot("east")
    service.know_depot("west")
    async with visiting(browser, service) as visit:
        page = visit.page
        await visit.go("/admin")
        await page.keyboard.type(TOKEN)  # the field has the focus
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Overview").wait_for()

        await _tab_to(visit, "Skip to the content")
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "content"
        await page.reload()
        await _tab_to(visit, "Dead letters")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Dead letters").wait_for()
        for _ in range(2):  # the newest two
            await _tab_to(visit, "Choose letter")
            await page.keyboard.press("Space")
        await _tab_to(visit, "Replay the chosen (2)")
        await page.keyboard.press("Enter")
        await page.get_by_text("2 letters are back on their subjects.").wait_for()

        await _tab_to(visit, "parcel.sent")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Letter and event").wait_for()
        assert left in await visit.text()
        await _tab_to(visit, "Discard")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Discard this letter").wait_for()
        await _tab_to(visit, "Discard the letter")
        await page.keyboard.press("Enter")
        await page.get_by_text("No dead letters").wait_for()
        for event_id in mended:
            await _is_processed(visit, event_id)
        assert visit.complaints == []


async def test_the_overview_is_live_and_says_when_it_is_not(
    browser: Browser, service: Service
) -> None:
    async with visiting(browser, service) as visit:
        page = visit.page
        await visit.log_in()
        failed = page.locator('[data-figure="failed"] [data-slot="value"]')
        assert await failed.inner_text() == "0"
        service.write("order.placed", status="failed", id=1)
        await page.wait_for_function(
            """() => document.querySelector('[data-figure="failed"] [data-slot="value"]')
                       .textContent === "1" """
        )
        assert visit.complaints == []

        await page.route("**/live", lambda route: route.abort())
        await page.get_by_text(re.compile("^Not reachable since")).wait_for()
        await page.unroute("**/live")
        await page.get_by_text(re.compile("^Live, read at")).wait_for()

        await page.context.clear_cookies()
        await page.get_by_text("The session has ended").wait_for()
        await page.get_by_role("link", name="log in again").click()
        await page.get_by_label("Token").wait_for()


async def test_a_link_from_elsewhere_needs_no_second_login(
    browser: Browser, service: Service
) -> None:
    """The cookie is not sent with it, and the login page then finds it."""
    async with visiting(browser, service) as visit:
        await visit.log_in()
        elsewhere = "http://localhost:1/alert"  # another site than 127.0.0.1
        link = f'<a href="{service.url}{CONSOLE}/outbox?status=failed">look</a>'
        await visit.page.route(
            elsewhere, lambda route: route.fulfill(body=link, content_type="text/html")
        )
        await visit.page.goto(elsewhere)
        await visit.page.get_by_text("look").click()
        await visit.page.get_by_role("heading", name="Outbox").wait_for()
        assert visit.page.url.endswith("/outbox?status=failed")


async def test_without_scripts_everything_but_the_charts_works(
    browser: Browser, parking_service: Service
) -> None:
    service = parking_service
    event_id = await _poison(service, "east")
    failed = service.write("order.placed", status="failed", id=1)
    service.know_depot("east")
    async with visiting(browser, service, java_script_enabled=False) as visit:
        page = visit.page
        await visit.log_in()
        await page.get_by_role("navigation").get_by_role("link", name="Inbox").click()
        await page.get_by_label("Status").select_option("dead_lettered")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name="parcel.sent").click()
        assert "there is no depot 'east'" in await visit.text()
        await page.get_by_role("button", name="Replay it").click()
        await page.get_by_text("The event is with the worker again.").wait_for()
        await _is_processed(visit, event_id)

        await page.get_by_role("navigation").get_by_role("link", name="Outbox").click()
        await page.get_by_label("Event id").fill(failed)
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name="order.placed").click()
        await page.get_by_role("link", name="Discard").click()
        await page.get_by_role("button", name="Discard the event").click()
        await page.get_by_text(f"The event {failed} is discarded.").wait_for()
        assert visit.complaints == []
