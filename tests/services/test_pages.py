"""The pages of jobs, batches, files, breakers and the playground, in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from harness.batches import jsonl, line
from harness.contrast import AA, COLOURS, SHAPES, contrast
from harness.waiting import wait_until
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tasks.store import keyspace

ROOT = Path(__file__).parents[2]
TSC = Path("/usr/bin/tsc")
MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
ANN, BOSS = "0123456789abcdef", "fedcba9876543210"
PLACES = ("", "jobs", "batches", "batches/new", "files", "playground", "breakers/max_gpu")


@pytest.fixture
def api(fleet):
    api, _ = fleet.start(fleet.api(), fleet.worker(slice_lines=16))
    return api


def submit(api, key="any", **fields):
    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.post(f"{api.url}/v1/jobs", json=fields, headers=headers)
    assert reply.is_success, reply.text
    return reply.json()


def done(api, job_id):
    job = httpx.get(f"{api.url}/v1/jobs/{job_id}", params={"wait": 20}, timeout=30).json()
    assert job["status"] == "succeeded"
    return job


def to(api, page, place):
    page.open(f"{api.url}/#/{place}")
    page.run("location.reload()")


def press(page, text):
    """Press the button or the link of that text which can be seen."""

    def found():
        return [e for e in page.all("button, a.button") if e.text == text]

    wait_until(found, what=f"there is a button {text}")[0].click()


def test_the_types_of_the_pages_are_right():
    checked = subprocess.run([TSC, "-p", ROOT], capture_output=True, text=True, check=False)
    assert (checked.stdout, checked.returncode) == ("", 0)


def test_the_page_asks_no_other_host_and_its_policy_allows_none(api, page):
    reply = httpx.get(api.url)
    assert "'unsafe" not in reply.headers["content-security-policy"]
    for place in PLACES:
        to(api, page, place)
        page.wait("#at", "as of")
    asked = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert asked
    assert all(url.startswith(api.url) for url in asked)
    icon = httpx.get(f"{api.url}/static/favicon.svg")
    assert icon.headers["content-type"].startswith("image/svg+xml")
    again = httpx.get(f"{api.url}/static/app.js", headers={"If-None-Match": "old"})
    assert again.headers["cache-control"] == "no-cache"
    same = {"If-None-Match": again.headers["etag"]}
    assert httpx.get(f"{api.url}/static/app.js", headers=same).status_code == 304


def test_a_job_shows_its_way_and_its_answer_as_text(fleet, gpu, page):
    api, _ = fleet.start(fleet.api(), fleet.worker())
    gpu.mode = "500"
    job = done(api, submit(api, prompt=MARKUP, metadata={"team": "blue"})["id"])
    assert MARKUP in job["text"]
    to(api, page, "jobs")
    page.wait("main table", job["id"])
    page.find("td.id a").click()
    page.wait(".job .state", "succeeded: answered by cpu")
    steps = page.text(".timeline").splitlines()
    assert steps[0] == "Queued"
    assert any(re.match(r"gpu failed", step) for step in steps)
    assert any(step.startswith("cpu answered") for step in steps)
    assert page.text(".answer") == job["text"]
    assert page.text(".facts [data-name='metadata: team'] dd") == "blue"
    assert page.all(".job img, .job b") == []
    assert page.run("return document.title") == f"Job …{job['id'][-6:]} \N{EN DASH} Fallthrough"
    assert page.run("return document.activeElement.textContent") == "Job"
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": api.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.find(".job .copy").click()
    page.wait("#said", f"Copied {job['id']}.")
    gpu.vanish()
    gone = done(api, submit(api, prompt="nobody there")["id"])
    to(api, page, f"jobs/{gone['id']}")
    page.wait(".timeline", "gpu failed")
    assert gone["attempts"][0]["detail"] in page.text(".timeline"), gone["attempts"]


def test_a_running_job_is_followed_word_by_word_and_cancelled_in_two_tabs(api, gpu, page):
    gpu.words, gpu.pace = 300, 0.1
    job = submit(api, prompt="many words", stream=True)
    to(api, page, f"jobs/{job['id']}")
    page.wait(".answer", "many-words.3")
    page.wait(".job .state", "running")
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        to(api, page, f"jobs/{job['id']}")
        page.wait(".answer", "many-words.1")
        press(page, "Cancel")
        press(page, "Cancel the job")
        page.wait(".job .state", "cancelled")
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    page.wait(".job .state", "cancelled")
    assert "many-words.3" in page.text(".answer")


def test_escape_cancels_nothing(api, gpu, page):
    gpu.words, gpu.pace = 300, 0.1
    job = submit(api, prompt="slow", stream=True)
    to(api, page, f"jobs/{job['id']}")
    press(page, "Cancel")
    page.wait("dialog", "Cancel this job?")
    assert page.run("return document.activeElement.textContent") == "Leave it"
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_until(lambda: not page.all("dialog"))
    status = httpx.get(f"{api.url}/v1/jobs/{job['id']}").json()["status"]
    assert status in {"queued", "running"}


def test_a_list_of_ten_thousand_jobs_is_turned_page_by_page(fleet, page):
    fleet.settings["FALLTHROUGH_MAX_QUEUED_JOBS"] = "100000"
    api = fleet.api().start()
    for _ in range(10):
        submit(api, requests=[{"prompt": "many"}] * 1000)
    last = submit(api, prompt="the last")["id"]
    to(api, page, "jobs")
    page.wait("main tbody", last)
    rows = "return document.querySelectorAll('main tbody tr').length"
    assert page.run(rows) == 50
    press(page, "Older")
    wait_until(lambda: last not in page.text("main tbody") and page.run(rows) == 50)
    page.driver.back()
    page.wait("main tbody", last)


def test_the_playground_streams_and_says_which_tier_speaks(api, gpu, page):
    gpu.words, gpu.pace = 20, 0.05
    to(api, page, "playground")
    page.wait("#at", "as of")
    page.find("textarea[name=prompt]").send_keys("hello there" + Keys.CONTROL + Keys.ENTER)
    page.wait(".talk", "hello-there.3")
    page.wait(".talk .end", "first words after")
    assert page.text(".talk .message:last-child [role=status]") == "gpu"
    assert "hello-there.19" in page.text(".talk")
    gpu.vanish()
    page.find("textarea[name=prompt]").send_keys(MARKUP + Keys.CONTROL + Keys.ENTER)
    page.wait(".talk .message:last-child .end", "before: gpu failure")
    assert page.text(".talk .message:last-child [role=status]") == "cpu"
    assert page.all(".talk img, .talk b") == []
    press(page, "New conversation")
    page.find("textarea[name=prompt]").send_keys("as a job")
    press(page, "Submit as a job")
    page.wait(".job .state", "succeeded: answered by cpu")


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TALK = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "My name is Ann."},
    {"role": "assistant", "content": "Hello Ann."},
    {"role": "user", "content": [PICTURE, {"type": "text", "text": "What is this?\n"}]},
]
FIELDS = {
    "response_format": {"type": "json_object"},
    "stop": ["END"],
    "seed": 7,
    "temperature": 0.75,
    "max_tokens": 9,
}
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def asked_of(call):
    """Return what a model server was asked, but for how its answer is to come."""
    return {n: v for n, v in call.body.items() if n not in {"stream", "stream_options"}}


def ask_again(api, page, gpu, job_id):
    """Take a job into the playground; return what its model server was asked."""
    asked = asked_of(gpu.calls[-1])
    to(api, page, f"jobs/{job_id}")
    press(page, "Ask again")
    page.wait(".along", "A job does not tell its tiers")
    return asked


def sent(page, gpu):
    """Press Send; return what a model server is asked."""
    before = len(gpu.calls)
    press(page, "Send")
    wait_until(lambda: len(gpu.calls) > before, what="a model server is asked")
    page.wait(".talk .message:last-child .end", "ms")
    return asked_of(gpu.calls[-1])


def test_a_job_is_asked_again_as_it_was(api, gpu, page):
    labels = {"team": "blue"}
    job = submit(api, messages=TALK, metadata=labels, cache="off", stream=True, **FIELDS)
    httpx.get(f"{api.url}/v1/jobs/{job['id']}", params={"wait": 20}, timeout=30)
    asked = ask_again(api, page, gpu, job["id"])
    assert page.find("textarea[name=prompt]").get_attribute("value") == "What is this?\n"
    assert page.find("textarea[name=system]").get_attribute("value") == "Be terse."
    talk = ["user", "My name is Ann.", "assistant", "Hello Ann."]
    assert page.text(".talk").splitlines() == talk
    names = [name.text for name in page.all(".along li code")]
    fields = ["response_format", "seed", "stop"]
    assert sorted(names) == ["image_url of the prompt", "metadata of the job", *fields]
    assert sent(page, gpu) == asked
    latest = httpx.get(f"{api.url}/v1/jobs").json()["data"][0]
    assert (latest["id"] != job["id"], latest["metadata"]) == (True, labels)
    page.find("textarea[name=prompt]").send_keys("And now?")
    again = sent(page, gpu)
    said = [message["content"] for message in again.pop("messages")]
    assert said[:4] == [message["content"] for message in TALK]
    assert said[-1] == "And now?"
    assert {**again, "messages": asked["messages"]} == asked, "all else stays"


def test_what_a_job_sends_along_can_be_changed_and_left_out(api, gpu, page):
    job = done(api, submit(api, messages=TALK, **FIELDS)["id"])
    asked = ask_again(api, page, gpu, job["id"])
    page.find("button[aria-label='Leave out seed']").click()
    page.find("textarea[name=prompt]").send_keys("Or that?")
    *talk, last = asked["messages"]
    text = {"type": "text", "text": "What is this?\nOr that?"}
    gone = {name: value for name, value in asked.items() if name != "seed"}
    changed = {**gone, "messages": [*talk, {**last, "content": [PICTURE, text]}]}
    assert sent(page, gpu) == changed
    ask_again(api, page, gpu, job["id"])
    page.find("button[aria-label='Leave out image_url of the prompt']").click()
    plain = [*talk, {"role": "user", "content": "What is this?"}]
    assert sent(page, gpu)["messages"] == plain


def test_a_job_that_ends_with_a_tools_result_is_asked_again_without_a_prompt(api, gpu, page):
    called = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "noon"}
    messages = [{"role": "user", "content": "What time is it?"}, called, result]
    job = done(api, submit(api, messages=messages, cache="off")["id"])
    asked = ask_again(api, page, gpu, job["id"])
    assert sent(page, gpu) == asked
    assert asked["messages"] == messages


def test_what_cannot_be_asked_again_is_said(api, page):
    body = {"prompt": "Once upon", "suffix": "end"}
    headers = httpx.post(f"{api.url}/v1/completions", json=body, timeout=30).headers
    to(api, page, f"playground?job={headers['x-fallthrough-job-id']}")
    page.wait(".along", "The job had its prompt completed (/v1/completions)")
    assert page.find("textarea[name=prompt]").get_attribute("value") == "Once upon"
    assert [name.text for name in page.all(".along li code")] == ["suffix"]
    vectors = {"model": "embedder", "input": "Hello"}
    headers = httpx.post(f"{api.url}/v1/embeddings", json=vectors, timeout=30).headers
    of_vectors = headers["x-fallthrough-job-id"]
    long = done(api, submit(api, prompt="x" * 5000)["id"])["id"]
    for job_id, why in ((of_vectors, "This job asked for embeddings"), (long, "was too long")):
        to(api, page, f"playground?job={job_id}")
        page.wait("#not-asked", why)
        to(api, page, f"jobs/{job_id}")
        page.wait("#at", "as of")
        assert [e.text for e in page.all("a.button")] == []


def test_a_breaker_is_opened_by_hand_with_who_and_why(fleet, page):
    api, _ = fleet.start(fleet.api(api_keys=f"ann={ANN},boss!={BOSS}"), fleet.worker())
    page.open(f"{api.url}/#/breakers/max_gpu")
    page.wait("#login", "API key")
    page.find("#key").send_keys(BOSS + Keys.ENTER)
    page.wait(".breaker .state", "in service")
    page.find("input[name=why]").send_keys("a new card")
    press(page, "Take out of service")
    page.wait(".breaker .state", "kept out of service by hand")
    page.wait(".breaker .troubles", "by boss at ")
    assert "a new card" in page.text(".breaker .troubles")
    press(page, "Back to automatic")
    page.wait("#said", "Breaker max_gpu is")
    page.find("#forget").click()
    page.wait("#login", "API key")
    page.find("#key").send_keys(ANN + Keys.ENTER)
    page.wait("#glance", "this needs an admin's key (403)")
    page.find("#forget").click()


def test_a_key_that_expires_is_asked_for_again_where_one_was(fleet, tmp_path, page):
    keys = tmp_path / "keys"
    environment = {"FALLTHROUGH_KEYS_FILE": str(keys)}

    def keys_command(*words):
        command = [Path(sys.executable).with_name("fallthrough"), "keys", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    made = keys_command("create", "ann")
    secret, key_id = made.stdout.strip(), re.search(r"key (\w+) of", made.stderr)[1]
    api, _ = fleet.start(fleet.api(keys_file=str(keys)), fleet.worker())
    page.open(f"{api.url}/#/jobs")
    page.wait("#login", "API key")
    page.find("#key").send_keys(secret + Keys.ENTER)
    page.wait("#view", "There is no job yet.")
    keys_command("revoke", key_id)
    page.wait("#refused", "refused (401)", 40)
    assert page.text("#view") == ""
    again = keys_command("create", "ann").stdout.strip()
    told = {"authorization": f"Bearer {again}"}
    wait_until(lambda: httpx.get(f"{api.url}/v1/jobs", headers=told).is_success)  # it was read
    page.find("#key").send_keys(again + Keys.ENTER)
    page.wait("#view", "There is no job yet.", 40)
    page.find("#forget").click()


def test_an_api_that_goes_away_is_told_on_every_page_and_its_return_noticed(api, page):
    to(api, page, "jobs")
    page.wait("#view", "There is no job yet.")
    api.stop()
    page.wait("#glance", "The API does not answer. What is shown is from ")
    api.start()
    wait_until(lambda: page.text("#glance") == "")
    assert page.find("#all").get_attribute("class") == ""


def test_what_is_not_there_is_said(api, page):
    to(api, page, "jobs/job_nothing")
    page.wait("#glance", "no job 'job_nothing' (404)")
    to(api, page, "jbos")
    page.wait("#view", "There is no such page.")


def upload(api, content, key="any"):
    """Upload a batch's input; return the file's id."""
    files = {"file": ("in.jsonl", content)}
    headers = {"Authorization": f"Bearer {key}"}
    data = {"purpose": "batch"}
    return httpx.post(f"{api.url}/v1/files", data=data, files=files, headers=headers).json()["id"]


def test_a_file_is_deleted_once_a_person_says_so(api, page):
    kept, gone = (upload(api, jsonl([line(name, "text")])) for name in "ab")
    to(api, page, "files")
    page.wait("main tbody", gone)
    delete = f"button[aria-label='Delete {gone}']"
    page.find(delete).click()
    press(page, "Leave it")
    assert httpx.get(f"{api.url}/v1/files/{gone}").is_success
    page.find(delete).click()
    press(page, "Delete the file")
    page.wait("#said", "in.jsonl is deleted.")
    wait_until(lambda: gone not in page.text("main tbody"))
    assert kept in page.text("main tbody")
    assert httpx.get(f"{api.url}/v1/files/{gone}").status_code == 404


def test_a_list_is_filtered_and_searched_and_its_address_says_how(api, gpu, page):
    blue = done(api, submit(api, prompt="one", metadata={"team": "blue"})["id"])["id"]
    red = done(api, submit(api, prompt="two", metadata={"team": "red"})["id"])["id"]
    gpu.mode = "400"
    failed = submit(api, prompt="three")["id"]
    httpx.get(f"{api.url}/v1/jobs/{failed}", params={"wait": 20}, timeout=30)
    to(api, page, "jobs")
    page.wait("main tbody", failed)

    def listed():
        return {each for each in (blue, red, failed) if each in page.text("main tbody")}

    Select(page.find("select[name=status]")).select_by_value("failed")
    wait_until(lambda: listed() == {failed})
    assert page.run("return location.hash") == "#/jobs?status=failed"
    Select(page.find("select[name=status]")).select_by_value("")
    wait_until(lambda: len(listed()) == 3)
    page.find("input[name=q]").send_keys("blue" + Keys.ENTER)
    wait_until(lambda: listed() == {blue})
    page.driver.refresh()
    wait_until(lambda: listed() == {blue})
    assert page.find("input[name=q]").get_attribute("value") == "blue"
    to(api, page, "jobs?tier=cache")
    page.wait("#view", "Nothing here fits.")


def test_a_file_is_downloaded_with_the_key_that_its_owner_has(fleet, page, tmp_path):
    page.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    api = fleet.api(api_keys=f"ann={ANN},boss!={BOSS}").start()
    content = jsonl([line("a", "mine")])
    mine, other = upload(api, content, ANN), upload(api, content, BOSS)
    page.open(f"{api.url}/#/files")
    page.wait("#login", "API key")
    page.find("#key").send_keys(ANN + Keys.ENTER)
    page.wait("main tbody", mine)
    assert other not in page.text("main tbody")
    page.find(f"button[aria-label='Download {mine}']").click()
    saved = wait_until(lambda: list(tmp_path.glob("in.jsonl")))
    wait_until(lambda: saved[0].read_bytes() == content)
    page.find("#forget").click()


def test_the_charts_draw_each_minute_and_tell_it_to_the_keyboard(api, valkey, page):
    wait_until(lambda: time.time() % 60 < 40, 25, "the next minute")  # it is over before its end
    last = int(time.time()) // 60 - 1
    with valkey.client() as client:
        for ago in range(10):
            tier, state = ("cpu", "open") if 3 <= ago < 6 else ("gpu", "closed")
            minute = {
                f"n:{tier}:succeeded": 120 + ago,
                f"t:{tier}:250": 120 + ago,
                "queued": 7 * ago,
                "b:max_gpu": state,
            }
            client.hset(keyspace.PREFIX + keyspace.history(last - ago), mapping=minute)
    page.open(api.url)
    page.wait("#history .legend", "gpu 2")
    shapes = "return document.querySelectorAll(arguments[0]).length"
    assert page.run(shapes, "#history .area") == 2
    assert page.run(shapes, "#history .line") == 3  # latency of two tiers, and what waits
    assert page.run(shapes, "#history .states rect.bad") == 1
    assert "up to 2.15" in page.text("#history figcaption")
    assert "open 3 min" in page.find("#history .breakers").get_attribute("textContent")
    plot = page.find("#history .plot")
    plot.send_keys(Keys.END + Keys.ARROW_LEFT * 4)
    moment = page.find("#history .moment").get_attribute("textContent")
    assert re.search(r"\d\d:\d\d, gpu 0, cpu 2.0\d", moment), moment
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.tell("Emulation.setEmulatedMedia", features=[feature])
        card = page.run("return getComputedStyle(document.querySelector('.chart')).backgroundColor")
        for css, kind in (("#history .area", "fill"), ("#history .line", "stroke")):
            script = "return [...document.querySelectorAll(arguments[0])].map((e) => "
            drawn = page.run(f"{script}getComputedStyle(e).{kind})", css)
            assert [each for each in drawn if contrast(each, card) < SHAPES] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_read_in_light_and_dark(api, gpu, page, scheme):
    job = done(api, submit(api, prompt="hello")["id"])["id"]
    gpu.mode = "400"
    body = {"input_file_id": upload(api, jsonl([line("a", "one")])), "completion_window": "24h"}
    body["endpoint"] = "/v1/chat/completions"
    batch = httpx.post(f"{api.url}/v1/batches", json=body).json()["id"]
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.tell("Emulation.setEmulatedMedia", features=[feature])
    to(api, page, f"batches/{batch}")
    page.wait(".batch .state", "completed: 1 of 1", 40)
    page.wait(".errors tbody", "1\ta\t")
    for place in (f"batches/{batch}", f"jobs/{job}", *PLACES):
        to(api, page, place)
        page.wait("#at", "as of")
        wait_until(lambda: page.all("#view"))
        colours = page.run(COLOURS)
        assert [each for each in colours if contrast(*each[1:]) < AA] == [], place


@pytest.mark.parametrize("place", PLACES)
def test_a_phone_scrolls_no_page_sideways_and_every_control_has_a_name(api, page, place):
    done(api, submit(api, prompt="hello")["id"])
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.tell("Emulation.setDeviceMetricsOverride", **size)
    to(api, page, place)
    page.wait("#at", "as of")
    assert page.run("return document.documentElement.scrollWidth") <= 390
    nodes = page.tell("Accessibility.getFullAXTree")["nodes"]
    seen = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    controls = {"button", "link", "textbox", "searchbox", "combobox", "spinbutton", "table"}
    assert [each for each in seen if each[0] in controls and not each[1]] == []
    assert [role for role, _ in seen].count("main") == 1


def test_a_new_user_runs_a_batch_and_downloads_the_answers_without_the_terminal(
    api, page, tmp_path
):
    page.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    bad, good = tmp_path / "bad.jsonl", tmp_path / "prompts.jsonl"
    bad.write_bytes(jsonl([line("a", "one")]) + b"{broken\n")
    good.write_bytes(jsonl([line(f"q{n}", f"question {n}") for n in range(40)]))
    page.open(api.url)
    page.wait("#glance", "All tiers in service")
    page.driver.find_element(By.LINK_TEXT, "Batches").click()
    press(page, "New batch")
    page.wait("#view", "A file of requests")
    page.find("input[type=file]").send_keys(str(bad))
    page.wait(".checked", "1 problem in 2 lines")
    assert page.text("main tbody").startswith("2\t")
    assert page.all("form.fields") == []
    page.find("input[type=file]").send_keys(str(good))
    page.wait(".checked", "40 lines, all good, for /v1/chat/completions")
    press(page, "Start the batch")
    page.wait(".batch .state", "completed: 40 of 40", 40)
    page.wait(".batch tbody", "gpu")
    page.wait(".answers", "question")
    press(page, "Download the answers")
    saved = wait_until(lambda: list(tmp_path.glob("batch_*_output.jsonl")))
    lines = wait_until(lambda: saved[0].read_text().splitlines())
    assert {json.loads(each)["custom_id"] for each in lines} == {f"q{n}" for n in range(40)}


def test_a_file_that_was_mended_is_chosen_again(fleet, page, tmp_path):
    api = fleet.api().start()
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(jsonl([line("a", "one")]) + b"{broken\n")
    to(api, page, "batches/new")
    page.wait("#view", "A file of requests")
    page.find("input[type=file]").send_keys(str(prompts))
    page.wait(".checked", "1 problem in 2 lines")
    prompts.write_bytes(jsonl([line("a", "one"), line("b", "two")]))
    page.find("input[type=file]").send_keys(str(prompts))
    page.wait(".checked", "2 lines, all good")
    assert "prompts.jsonl file-" in page.text("#view"), "the field itself is empty again"


def test_lines_that_failed_are_told_and_retried_as_a_new_batch(fleet, gpu, cpu, page):
    api, _ = fleet.start(fleet.api(), fleet.worker(slice_lines=16))
    gpu.mode = cpu.mode = "400"
    files = {"file": ("in.jsonl", jsonl([line("a", "one"), line("b", "two")]))}
    given = httpx.post(f"{api.url}/v1/files", data={"purpose": "batch"}, files=files).json()["id"]
    body = {
        "input_file_id": given,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = httpx.post(f"{api.url}/v1/batches", json=body).json()["id"]
    to(api, page, f"batches/{batch}")
    page.wait(".batch .state", "completed: 2 of 2", 40)
    page.wait(".errors tbody", "1\ta\t")
    gpu.mode = cpu.mode = "ok"
    press(page, "Retry what failed, as a new batch")
    page.wait(".batch .facts", "retries", 40)
    page.wait(".batch .state", "completed: 2 of 2", 40)
    page.wait(".batch tbody", "gpu")
