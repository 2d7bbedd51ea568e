"""Every page, narrow and wide, light and dark: it fits, it can be read, and asks nobody else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.service import Service
from tests.browser.visit import Visit, visiting
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser

SIZES = {"narrow": (375, 760), "wide": (1440, 900)}
SCHEMES = ("light", "dark")

TOO_WIDE = """() => {
  const page = document.scrollingElement;
  if (page.scrollWidth <= page.clientWidth) return [];
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > page.clientWidth + 0.5)
    .map((one) => one.tagName + "." + one.className).slice(0, 5);
}"""


async def _hard_to_use(visit: Visit) -> list[str]:
    """Return what axe finds: contrast, names, labels, roles, landmarks, order of headings."""
    from axe_playwright_python.async_playwright import Axe

    found = await Axe().run(visit.page)
    return [
        f"{violation['id']}: {node['html'][:150]}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


async def _fill(service: Service) -> dict[str, str]:
    """Have something of everything; return the pages to look at, by their names."""
    for number in range(4):
        await service.receive("parcel.sent", id=number, depot="north", weight_kg=2.5)
    await service.receive(
        "parcel.sent", id="p-17", depot="east", weight_kg=2.5, note="<i>Frágile</i>"
    )
    poison = await service.receive("parcel.sent", id="p-18", depot="west-of-the-river-" * 6)
    await service.receive_bytes(b"{broken")
    await service.receive("parcel.sent", id="p-19")
    sent = service.write("order.placed", id="o-1", total=4200, paid=False, note=None)
    failed = service.write("order.attachment_added", status="failed", id="o-2", name="plan.pdf")

    async def there() -> bool:
        done = await service.inbox_status(poison) == "dead_lettered"
        return done and len(await service.letters()) == 4

    await eventually(there, limit=30)
    letters = {letter["reason"]: letter["sequence"] for letter in await service.letters()}
    console = "/admin/console"
    return {
        "login": f"{console}/login",
        "overview": "/admin",
        "pause": f"{console}/relay/pause",
        "outbox": f"{console}/outbox",
        "outbox-none": f"{console}/outbox?resource=nothing:1",
        "outbox-event": f"{console}/outbox/event?id={sent}",
        "outbox-failed": f"{console}/outbox/event?id={failed}",
        "outbox-discard": f"{console}/outbox/discard?id={failed}",
        "inbox": f"{console}/inbox",
        "inbox-event": f"{console}/inbox/1",
        "letters": f"{console}/dead-letters",
        "letter": f"{console}/dead-letters/{letters['unrecoverable']}",
        "letter-broken": f"{console}/dead-letters/{letters['malformed_json']}",
        "letter-discard": f"{console}/dead-letters/{letters['unrecoverable']}/discard",
        "letters-returned": f"{console}/dead-letters?since=1&replayed=3",
        "replay-all": f"{console}/dead-letters/replay-all",
        "discard-all": f"{console}/dead-letters/discard-all",
        "topology": f"{console}/topology",
        "events": f"{console}/events",
        "event-published": f"{console}/events/published?event_type=customer.created",
        "event-handled": f"{console}/events/handled?event_type=customer.created&source=billing",
        "nowhere": f"{console}/nowhere",
    }


async def _look(visit: Visit, name: str, path: str, picture: Path) -> None:
    await visit.go(path)
    await visit.page.screenshot(path=picture, full_page=True)
    assert await visit.page.evaluate(TOO_WIDE) == [], name
    assert await _hard_to_use(visit) == [], name
    if name == "nowhere":  # the one whose status the browser itself calls an error
        visit.complaints = [said for said in visit.complaints if "404" not in said]
    assert visit.complaints == [], name


async def test_every_page_in_both_sizes_and_schemes(
    browser: Browser, service: Service, screenshots: Path
) -> None:
    pages = await _fill(service)
    first = True
    for size, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            options = {
                "viewport": {"width": width, "height": height},
                "color_scheme": scheme,
                "is_mobile": size == "narrow",
                "device_scale_factor": 2 if size == "narrow" else 1,
            }
            async with visiting(browser, service, **options) as visit:
                login = pages["login"]
                await _look(visit, "login", login, screenshots / f"login-{size}-{scheme}.png")
                await visit.log_in()
                if first:  # the script reads anew, so that there are lines in the charts
                    await visit.page.get_by_text(re.compile("^Live, read at")).wait_for()
                    first = False
                for name, path in pages.items():
                    if name != "login":
                        picture = screenshots / f"{name}-{size}-{scheme}.png"
                        await _look(visit, name, path, picture)
