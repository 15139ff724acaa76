"""The pages as people use them, in Chromium."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from shared.jobs.recording import Failure
from tests.browser.conftest import Site, picture, upload

pytestmark = pytest.mark.browser

OUTPUT = Path(__file__).parents[1] / "output" / "pages"
Visit = Callable[..., Page]
SENTENCE = "The image you uploaded is a tabby (61.23%)"

DROP = """({names, selector}) => {
  const transfer = new DataTransfer();
  for (const name of names) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 24;
    const [, data] = canvas.toDataURL("image/png").split(",");
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const target = document.querySelector(selector);
  for (const type of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true,
                                               cancelable: true }));
  }
}"""


DROP_TEXT = """({name, text}) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
}"""


def serving(site: Site, name: str = "vgg16") -> int:
    version = site.install(name)
    site.start_worker(version)
    return version


def test_an_image_goes_from_the_form_to_its_result_without_a_reload(
    site: Site, visit: Visit
) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    with page.expect_file_chooser() as chooser:
        page.locator("#zone").click()
    chooser.value.set_files(upload("cat.png"))
    expect(page.locator("#chosen li")).to_have_text([re.compile(r"cat\.png\s*\d+ kB")])
    page.get_by_role("button", name="Predict").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    expect(page.locator("h1")).to_have_text("Waiting for its turn")
    expect(page).to_have_title("Waiting for its turn – Image classifier")
    page.evaluate("window.unreloaded = true")
    site.work(version, None)  # left running
    expect(page.locator("h1")).to_have_text("Classifying the image…")


def test_the_result_has_the_sentence_the_bars_and_the_small_print(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/jobs/*")
    page.evaluate("window.unreloaded = true")
    site.work(version)
    expect(page.locator("h1")).to_have_text(SENTENCE)
    assert page.evaluate("window.unreloaded")
    expect(page).to_have_title("tabby (61.23%) – Image classifier")
    expect(page.locator("#announce")).to_have_text(SENTENCE)
    expect(page.locator(".scores li")).to_have_count(5)
    meter = page.get_by_role("meter", name="Egyptian_cat")
    assert float(meter.get_attribute("value") or 0) == pytest.approx(0.0987)
    expect(page.locator(".facts")).to_contain_text("vgg16@0123456789ab")
    expect(page.locator(".facts")).to_contain_text("131 ms")
    loaded = "image => image.complete && image.naturalWidth > 0"
    assert page.get_by_role("img", name="The image you uploaded: cat.png").evaluate(loaded)
    # The same image once more is answered at once.
    page.get_by_role("link", name="Classify another image").click()
    page.set_input_files("#image", upload("again.png"))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("h1")).to_have_text(SENTENCE)
    expect(page.locator(".facts")).to_contain_text("answered from an earlier result")


def test_the_focus_stays_where_it_was_when_a_part_is_replaced(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/jobs/*")
    page.locator("#again").focus()
    site.work(version)
    expect(page.locator("h1")).to_have_text(SENTENCE)
    expect(page.locator("#again")).to_be_focused()


def test_several_images_share_a_page(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", [upload(f"cat-{n}.png", hue=n * 40) for n in range(3)])
    page.get_by_role("button", name="Predict 3 images").click()
    expect(page).to_have_url(re.compile(r"/jobs\?id=.*&id=.*&id="))
    expect(page.locator("h1")).to_have_text("0 of 3 images done")
    site.work(version, limit=2)
    expect(page.locator("h1")).to_have_text("2 of 3 images done")
    site.work(version)
    expect(page.locator("h1")).to_have_text("3 images done")
    expect(page.locator(".job-headline")).to_have_text(["tabby (61.23%)"] * 3)
    page.get_by_role("link", name="tabby (61.23%)").first.click()
    expect(page.locator("h1")).to_have_text(SENTENCE)


def test_what_is_refused_is_told_beside_what_was_accepted(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    files = [upload("cat.png"), upload("letter.png", b"Dear reader"), upload("other.png", hue=120)]
    page.set_input_files("#image", files)
    page.get_by_role("button", name="Predict 3 images").click()
    refusals = page.get_by_role("alert")
    expect(refusals).to_contain_text("One image was not accepted; the others were.")
    expect(refusals).to_contain_text("letter.png: The content is not an image")
    site.work(version)
    expect(page.locator("h1")).to_have_text("2 images done")
    expect(refusals).to_be_visible()
    # A reload shows the jobs; it does not send the images again.
    page.reload()
    expect(page.locator("h1")).to_have_text("2 images done")


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_many_images_an_archive_and_a_folder_become_ingestions(
    site: Site, visit: Visit, tmp_path: Path, *, scripts: bool
) -> None:
    serving(site)
    page = visit(java_script_enabled=scripts)
    (tmp_path / "trip" / "day").mkdir(parents=True)
    for n in range(2):
        (tmp_path / "trip" / "day" / f"{n}.png").write_bytes(picture(hue=n * 90))
    many = [upload(f"cat-{n}.png", hue=n * 30) for n in range(6)]
    chosen: dict[str, Any] = {
        "#image": (many, "6 images"),
        "#archive": ([upload("trip.zip", b"PK\x03\x04")], "trip.zip"),
        "#folder": ([tmp_path / "trip"], "trip (2 images)"),
    }
    for field, (files, name) in chosen.items():
        page.goto(site.url)
        page.locator("#many summary").click()
        page.set_input_files(field, files)
        label = "Hand in as one ingestion" if scripts else "Predict"
        page.get_by_role("button", name=label).click()
        expect(page).to_have_url(re.compile(r"/ingestions/[0-9a-f-]{36}$"))
        expect(page.locator("h1")).to_have_text("Waiting for its turn")
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_what_is_refused_of_an_upload_is_told_beside_the_form(site: Site, visit: Visit) -> None:
    serving(site)
    page = visit()
    page.goto(site.url)
    page.evaluate(DROP_TEXT, {"name": "trip.zip", "text": "\0"})
    expect(page.locator(".chosen-name")).to_have_text(["trip.zip"])
    button = page.locator("#predict")
    button.click()
    expect(page.get_by_role("alert")).to_contain_text("neither an archive")
    expect(button).to_be_enabled()
    expect(page.locator(".chosen-name")).to_have_text(["trip.zip"])
    page.set_input_files("#image", upload("cat.png"))
    button.click()
    expect(page.get_by_role("alert")).to_have_text("Choose either an archive or a list, or images.")
    page.get_by_role("button", name="Remove trip.zip").click()
    expect(button).to_have_text("Predict")


def test_images_can_be_dropped_pasted_and_taken_away(site: Site, visit: Visit) -> None:
    serving(site)
    page = visit()
    page.goto(site.url)
    page.evaluate(DROP, {"names": ["one.png"], "selector": "#zone"})
    page.evaluate(DROP, {"names": ["two.png"], "selector": "footer"})
    expect(page.locator(".chosen-name")).to_have_text(["one.png", "two.png"])
    page.evaluate("""() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["x"], "three.png", { type: "image/png" }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
    }""")
    expect(page.locator(".chosen-name")).to_have_text(["one.png", "two.png", "three.png"])
    page.get_by_role("button", name="Remove three.png").click()
    expect(page.locator(".chosen-name")).to_have_text(["one.png", "two.png"])
    page.get_by_role("button", name="Predict 2 images").click()
    expect(page.locator("h1")).to_have_text("0 of 2 images done")
    expect(page.locator(".job-text .name")).to_have_text(["one.png", "two.png"])


def test_a_failed_job_says_why_and_what_to_do(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/jobs/*")
    site.work(version, Failure("image_unreadable", "The image ends in the middle of its data."))
    expect(page.locator("h1")).to_have_text("The image cannot be decoded")
    expect(page.locator("#live")).to_contain_text("The image ends in the middle of its data.")
    expect(page.locator(".advice")).to_contain_text("save it as JPEG or PNG")


def test_a_job_can_be_canceled(site: Site, visit: Visit) -> None:
    serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1")).to_have_text("This job was canceled")


def test_no_image_chosen(site: Site, visit: Visit) -> None:
    serving(site)
    page = visit()
    page.goto(site.url)
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.get_by_role("button", name="Predict").click()
    assert answer.value.status == 422
    expect(page.get_by_role("alert")).to_have_text("Choose an image first.")


def test_a_model_that_is_not_installed_is_said_and_never_exchanged(
    site: Site, visit: Visit
) -> None:
    site.register("vgg16")
    serving(site, "digits")
    page = visit()
    page.goto(site.url)
    card = page.locator(".model", has_text="vgg16")
    expect(card).to_contain_text("Not installed")
    expect(card).to_contain_text("Its weights have not been downloaded.")
    expect(card.locator("code")).to_have_text(
        ["classify models pull vgg16", "classify models import vgg16 FILE"]
    )
    expect(page.get_by_label("Model", exact=True)).to_have_value("vgg16")
    page.set_input_files("#image", upload("cat.png"))
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.get_by_role("button", name="Predict").click()
    assert answer.value.status == 503
    assert answer.value.headers["retry-after"] == "60"
    expect(page.get_by_role("alert")).to_contain_text("The model vgg16 is not installed")
    expect(page.get_by_role("alert").locator("code").first).to_have_text(
        "classify models pull vgg16"
    )
    # It is installed meanwhile: the page learns of it by itself.
    site.start_worker(site.install("vgg16"))
    expect(card).to_contain_text("Ready")
    expect(page.locator("option", has_text=re.compile("^vgg16$"))).to_have_count(1)


def test_a_download_is_shown_as_it_goes_and_jobs_wait_for_it(site: Site, visit: Visit) -> None:
    site.download("vgg16", 132_000_000, 528_000_000)
    page = visit()
    page.goto(site.url)
    bar = page.get_by_role("progressbar", name="Download of vgg16")
    expect(bar).to_have_attribute("value", "25")
    card = page.locator(".model", has_text="vgg16")
    expect(card).to_contain_text("132 MB of 528 MB (25 %)")
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("h1")).to_have_text("Waiting for vgg16 to be downloaded")
    expect(bar).to_have_attribute("value", "25")


def test_the_quick_model_is_offered_while_the_other_is_not_there_and_chosen_by_nobody_else(
    site: Site, visit: Visit
) -> None:
    site.download("vgg16", 132_000_000, 528_000_000)
    page = visit()
    page.goto(site.url)
    card, model = page.locator(".model").nth(1), page.get_by_label("Model", exact=True)
    expect(card.locator("h3")).to_have_text("mobilenet_v2")
    expect(card).to_contain_text("The quick one: 14 MB to download")
    expect(card.locator("code")).to_have_text(["classify models pull mobilenet_v2"])
    page.set_input_files("#image", upload("cat.png"))
    serving(site, "mobilenet_v2")
    page.get_by_role("link", name="Use mobilenet_v2 meanwhile").click()
    expect(model).to_have_value("mobilenet_v2")
    expect(page.locator(".chosen-item")).to_have_count(1)  # what was chosen is not lost
    page.goto(site.url)
    expect(model).to_have_value("vgg16")
    serving(site)
    expect(card.locator("h3")).to_have_text("mobilenet_v2")
    expect(page.locator("[data-choose]")).to_have_count(0)


def test_a_model_without_a_worker_says_so(site: Site, visit: Visit) -> None:
    version = site.install("vgg16")
    page = visit()
    page.goto(site.url)
    expect(page.locator(".model")).to_contain_text("No worker is running.")
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("h1")).to_have_text("Waiting for a worker to load vgg16")
    site.start_worker(trouble=f"vgg16@0123456789ab needs {version} GB of memory.")
    expect(page.locator("#live")).to_contain_text("GB of memory.")


def test_a_sample_is_one_click(site: Site, visit: Visit) -> None:
    site.register("vgg16")
    version = serving(site, "digits")
    page = visit()
    page.goto(site.url)
    expect(page.locator(".sample")).to_have_count(10)
    page.get_by_role("button", name="Classify sample 7").click()
    page.wait_for_url("**/jobs/*")
    site.work(version, [("7", "7", 0.9987), ("1", "1", 0.0013)])
    expect(page.locator("h1")).to_have_text("The image you uploaded is a 7 (99.87%)")
    expect(page.locator(".facts")).to_contain_text("digits@")


def test_everything_works_without_scripts(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit(java_script_enabled=False)
    page.goto(site.url)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=OUTPUT / "form-without-scripts.png")
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/jobs/*")
    site.work(version)
    expect(page.locator("h1")).to_have_text(SENTENCE)
    # Nothing is left to refresh.
    assert page.locator("meta[http-equiv=refresh]").count() == 0


def test_addresses_that_lead_nowhere(site: Site, visit: Visit) -> None:
    page = visit()
    for path, title in {
        "/nowhere": "There is no such thing",
        "/jobs/01890000-0000-7000-8000-000000000000": "There is no such thing",
        "/jobs?id=01890000-0000-7000-8000-000000000000": "There is no such thing",
        "/jobs?id=7": "A value is not valid",
    }.items():
        page.goto(site.url + path)
        expect(page.locator("h1")).to_have_text(title)
    page.goto(f"{site.url}/jobs")
    expect(page.locator("h1")).to_have_text("Classify an image")


def test_a_service_that_is_away_is_said_and_polling_goes_on(site: Site, visit: Visit) -> None:
    version = serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", upload("cat.png"))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/jobs/*")
    page.evaluate("() => { window.kept = fetch; window.fetch = () => Promise.reject(); }")
    expect(page.locator("#away")).to_be_visible()
    site.work(version)
    page.evaluate("() => { window.fetch = window.kept; }")
    expect(page.locator("h1")).to_have_text(SENTENCE)
    expect(page.locator("#away")).to_be_hidden()


def test_what_no_browser_shows_is_shown_as_a_preview(site: Site, visit: Visit) -> None:
    serving(site)
    page = visit()
    page.goto(site.url)
    page.set_input_files("#image", upload("holiday.heic.jpg", picture("HEIF")))
    # Chromium can't show it, and says so with an icon rather than a broken picture.
    expect(page.locator("span.chosen-picture.unseen")).to_be_visible()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    page.locator("#form").screenshot(path=OUTPUT / "form-heic.png")
    page.get_by_role("button", name="Predict").click()
    shown = page.get_by_role("img", name="The image you uploaded: holiday.heic.jpg")
    expect(shown).to_be_visible()
    expect(shown).to_have_js_property("naturalWidth", 320)
    expect(page.locator(".facts")).to_contain_text("HEIC, 320 × 240 pixels")


def test_a_picture_that_does_not_come_is_asked_for_again(site: Site, visit: Visit) -> None:
    serving(site)
    page = visit()
    page.clock.install()
    page.goto(site.url)
    page.set_input_files("#image", [upload("a.png"), upload("b.png", hue=90)])
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        if route.request.url == refused[0]:
            # An empty picture fails as a refusal does, and leaves the console quiet.
            route.fulfill(status=200, content_type="image/png", body=b"")
        else:
            route.continue_()

    page.route("**/thumbnail", refuse)
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/jobs?*")
    page.wait_for_load_state("load")
    page.clock.fast_forward(4000)
    expect(page.locator(".no-picture")).to_have_text("No preview")
    expect(page.locator(".job-picture img")).to_have_count(1)
    assert len(refused) == 3
