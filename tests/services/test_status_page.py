"""The status page, in a real browser over a real fleet."""

from __future__ import annotations

import re

import httpx
import openai
import pytest
from harness.batches import ended, line, start
from harness.contrast import AA, COLOURS, contrast, luminance
from harness.prefix import PrefixProxy
from harness.waiting import wait_until
from selenium.webdriver.common.keys import Keys

PRIVATE = "xyzzy-plugh"  # stands for what nobody but its owner is to read
LONG = {"FALLTHROUGH_BREAKER_RECOVERY_SECONDS": "60"}  # so that an outage does not end by itself
ANN, ROOT = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def api(fleet):
    return both(fleet.api(flower_url="http://127.0.0.1:5555"), fleet.worker())


@pytest.fixture
def outage(fleet, gpu, cpu):
    """An API whose GPU tier is out of service, with a batch that the CPU tier works on."""
    fleet.settings.update(LONG)
    gpu.vanish()
    cpu.delay = 0.1
    api = both(fleet.api(), fleet.worker(slice_lines=16))
    for number in range(4):
        ask(api, f"{PRIVATE} {number}")
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any") as sdk:
        batch = start(sdk, [line(f"c{n}", f"{PRIVATE} {n}") for n in range(600)])
        yield api
        sdk.batches.cancel(batch.id)


@pytest.fixture
def kept(fleet):
    """An API that wants keys."""
    return both(fleet.api(api_keys=f"ann={ANN},root!={ROOT}"), fleet.worker())


def both(api, worker):
    """Start them side by side; return the API."""
    worker.start(ready=False)
    api.start()
    wait_until(worker.ready)
    return api


def ask(api, prompt, key="any"):
    body = {"messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.post(f"{api.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    assert reply.is_success


def open_breaker(api, page):
    for number in range(3):
        ask(api, f"prompt {number}")
    page.open(api.url)
    page.wait(card("max_gpu"), "out of service")


def card(name):
    return f"#tiers > [data-name={name}]"


def enter(page, key):
    page.wait("#login", "API key")
    page.find("#key").send_keys(key + Keys.ENTER)


def test_an_idle_page_shows_every_tier_in_service_and_no_error(api, page):
    page.open(api.url)
    for name, title in (("max_gpu", "GPU"), ("ollama_cpu", "CPU"), ("redis_cache", "Cache")):
        page.wait(card(name), "in service")
        assert title in page.text(card(name))
        assert f"{name}: closed, 0 of 3 failures" in page.text(card(name))
    page.wait("#glance", "All tiers in service")
    page.wait("#work [data-name=workers] dd", "1")
    assert page.text("#jobs") == ""
    assert not page.find("#login").is_displayed()
    links = {link.text: link.get_attribute("href") for link in page.all("#more a")}
    assert links == {
        "API docs": f"{api.url}/docs",
        "Flower": "http://127.0.0.1:5555/",
        "Metrics": f"{api.url}/metrics",
    }
    assert all(
        button.get_attribute("aria-disabled") == "true" for button in page.all("#tiers button")
    )
    assert page.complaints() == []


PLACES = ["", "#/jobs", "#/batches", "#/files", "#/playground", "#/breakers/max_gpu", "#/nowhere"]


@pytest.mark.parametrize("place", PLACES)
def test_the_link_to_flower_is_there_wherever_one_begins(api, page, place):
    page.open(f"{api.url}/{place}")
    page.wait("#more", "Flower")
    assert page.find("#flower").get_attribute("href") == "http://127.0.0.1:5555/"
    assert page.complaints() == []


def test_links_that_are_an_admins_come_and_go_with_the_key(fleet, page):
    keys = f"ann={ANN},root!={ROOT}"
    api = both(fleet.api(api_keys=keys, flower_url="http://127.0.0.1:5555"), fleet.worker())
    page.open(f"{api.url}/#/jobs")
    enter(page, ROOT)
    page.wait("#more", "Flower")
    page.find("#forget").click()
    page.wait("#login", "API key")
    assert [link.text for link in page.all("#more a")] == ["API docs"]
    enter(page, ANN)
    wait_until(lambda: not page.find("#metrics").is_displayed(), 20, "ann is no admin")
    assert [link.text for link in page.all("#more a")] == ["API docs"]


def test_the_docs_of_the_api_are_shown_under_their_own_policy(api, page):
    page.open(f"{api.url}/docs")
    page.wait("#ui", "/v1/chat/completions")
    assert page.complaints() == []
    policy = httpx.get(f"{api.url}/docs").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy


@pytest.fixture
def prefixed(api):
    """The same API under a proxy's path."""
    proxy = PrefixProxy(api.url, "/llm")
    yield proxy
    proxy.close()


@pytest.mark.parametrize("place", ["docs", "docs/"])
def test_the_docs_of_the_api_are_shown_and_tried_under_a_proxys_path(prefixed, page, place):
    page.open(f"{prefixed.url}/{place}")
    page.wait("#ui", "/v1/chat/completions")
    page.find("#operations-Operations-get_health button").click()
    page.wait("#ui", "Try it out")
    page.find(".try-out button").click()
    page.wait("#ui", "Execute")
    page.find("button.execute").click()
    page.wait("#ui .request-url", f"{prefixed.url}/health")
    page.wait("#ui .live-responses-table", '"ok"')
    assert prefixed.asked[-1] == "GET /llm/health"
    assert page.complaints() == []


def test_every_page_works_under_a_proxys_path(prefixed, page):
    for place in PLACES:
        page.open(f"{prefixed.url}/{place}")
        page.run("location.reload()")
        page.wait("#at", "as of") if place != "#/nowhere" else page.wait("#view", "no such page")
    assert all(request.split()[1].startswith("/llm/") for request in prefixed.asked)
    assert page.complaints() == []


def test_answers_are_counted_by_tier_and_paced(api, page):
    page.open(api.url)
    page.wait(card("max_gpu"), "no answers in 10 s")
    ask(api, PRIVATE)
    page.wait(card("max_gpu"), "· 1 so far")
    assert re.search(r"\d answers a minute", page.text(card("max_gpu")))
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\tsucceeded\tgpu\t\d+ ms\tgpu-model\t\w+", page.text("#jobs")
    )


def test_streams_are_counted_while_they_run_and_their_first_word_is_timed(api, gpu, page):
    page.open(api.url)
    page.wait("#work [data-name='streams running'] dd", "0")
    assert page.text("#work [data-name='first token, median'] dd") == "\N{EN DASH}"
    gpu.pace = 0.2
    body = {"messages": [{"role": "user", "content": PRIVATE + " word" * 300}], "stream": True}
    with httpx.stream("POST", f"{api.url}/v1/chat/completions", json=body, timeout=30) as reply:
        pieces = reply.iter_bytes()
        next(pieces)
        page.wait("#work [data-name='streams running'] dd", "1")
        for share in ("median", "p95"):
            assert re.fullmatch(
                r"[\d,]+ ms", page.text(f"#work [data-name='first token, {share}'] dd")
            )
    page.wait("#work [data-name='streams running'] dd", "0")
    assert page.complaints() == []


def test_what_a_tier_gave_and_nobody_was_shown_is_told(fleet, gpu, cpu, page):
    api = both(fleet.api(), fleet.worker())
    gpu.mode = "abort"
    page.open(api.url)
    page.wait(card("max_gpu"), "in service")
    assert "not shown" not in page.text(card("max_gpu"))
    ask(api, PRIVATE)
    page.wait(card("max_gpu"), "not shown: 1 interrupted")
    assert "not shown" not in page.text(card("ollama_cpu"))


def test_a_tier_out_of_service_says_what_its_server_did(api, gpu, page):
    gpu.vanish()
    open_breaker(api, page)
    page.wait(card("max_gpu"), "does not answer")
    place, text = re.escape(f"127.0.0.1:{gpu.port}"), page.text(card("max_gpu"))
    assert re.search(rf"{place} does not answer: failure: connect, since \d\d:\d\d:\d\d", text)
    assert "does not answer" not in page.text(card("ollama_cpu"))


def test_what_was_done_to_a_breaker_by_hand_is_told_with_who_and_why(api, page):
    page.open(api.url)
    page.wait("#glance", "All tiers in service")
    change = f"{api.url}/circuit-breakers/max_gpu"
    assert httpx.post(f"{change}/open", json={"why": "a <b>new</b> model"}).is_success
    page.wait(card("max_gpu"), "kept out of service by hand")
    text = page.text(card("max_gpu"))
    assert re.search(r"by anonymous at \d\d:\d\d:\d\d: a <b>new</b> model", text)
    assert "max_gpu: open, until somebody sets it to auto or resets it" in text
    assert "next probe" not in text
    page.wait("#glance", "GPU out of service; CPU answers")
    assert httpx.post(f"{change}/disable").is_success
    page.wait("#glance", "GPU asked whatever happens: its breaker is disabled by hand")
    assert "warn" in page.find(card("max_gpu")).get_attribute("class")
    page.find(f"{card('max_gpu')} button").click()
    page.wait("#glance", "All tiers in service")
    assert "by hand" not in page.text(card("max_gpu"))


def test_a_breaker_whose_probes_fail_says_how_often_it_opened(fleet, gpu, page):
    fleet.settings["FALLTHROUGH_BREAKER_RECOVERY_SECONDS"] = "1"
    api = both(fleet.api(), fleet.worker())
    gpu.vanish()
    open_breaker(api, page)
    assert "times in a row" not in page.text(card("max_gpu"))

    def opened_again():
        ask(api, PRIVATE)
        return re.search(r"max_gpu: open, opened \d times in a row", page.text(card("max_gpu")))

    wait_until(opened_again, 20)


def test_a_model_that_a_tier_does_not_have_is_told_though_its_breaker_is_closed(fleet, gpu, page):
    api = both(fleet.api(), fleet.worker())
    gpu.mode = "no-model"
    page.open(api.url)
    page.wait("#glance", "All tiers in service")
    ask(api, PRIVATE)
    page.wait("#glance", "GPU does not have the model that it is asked for; CPU answers")
    page.wait(card("max_gpu"), "does not have the model that it is asked for")
    text = page.text(card("max_gpu"))
    assert "max_gpu: closed, 0 of 3 failures" in text
    place = re.escape(f"127.0.0.1:{gpu.port}")
    why = r"HTTP 404 no such model, 1 try since \d\d:\d\d:\d\d"
    assert re.search(rf"{place} does not have .*: {why}", text)
    assert "bad" in page.find(card("max_gpu")).get_attribute("class")
    gpu.mode = "ok"
    ask(api, PRIVATE + "again")
    page.wait("#glance", "All tiers in service")
    page.wait(card("max_gpu"), "in service")
    assert "no such model" not in page.text(card("max_gpu"))


def test_a_refused_key_is_told_with_where_and_why(fleet, gpu, page):
    fleet.settings.update(LONG)
    api = both(fleet.api(), fleet.worker())
    gpu.mode = "401"
    ask(api, PRIVATE)
    page.open(api.url)
    page.wait(card("max_gpu"), "held back: the server refuses us")
    page.wait(card("max_gpu"), f"127.0.0.1:{gpu.port} refuses our key or path: HTTP 401, 1 try")
    page.wait("#glance", "GPU out of service; CPU answers")


def test_tiers_are_shown_by_their_names_and_counts(fleet, gpu, cpu, page):
    fleet.settings |= {
        "FALLTHROUGH_GPU_URL": "",
        "FALLTHROUGH_TIERS": "h100,l4,cpu",
        "FALLTHROUGH_H100_URL": f"{gpu.url},{cpu.url}",
        "FALLTHROUGH_L4_URL": cpu.url,
    }
    api, _ = fleet.start(fleet.api(), fleet.worker())
    httpx.post(
        f"{api.url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "Hello"}]},
        timeout=30,
    )
    page.open(api.url)
    page.wait(card("tier_h100"), "· 1 so far, by its 2 servers")
    names = {"tier_h100": "h100", "tier_l4": "l4", "ollama_cpu": "CPU", "tier_h100:2": "h100 2"}
    cards = {name: page.text(f"#tiers > [data-name='{name}']") for name in names}
    assert all(cards[name].startswith(title) for name, title in names.items())
    assert "so far" not in cards["tier_h100:2"], "counted once, for both"
    assert page.complaints() == []


def test_of_several_servers_each_has_its_card_and_its_trouble(fleet, gpu, cpu, page):
    fleet.settings["FALLTHROUGH_GPU_URL"] = f"{gpu.url},{cpu.url}"
    fleet.settings["FALLTHROUGH_CPU_URL"] = ""
    cpu.mode = "no-model"
    api = both(fleet.api(), fleet.worker())
    page.open(api.url)
    page.wait("#glance", "All tiers in service")
    for number in range(3):
        ask(api, f"{PRIVATE} {number}")
    page.wait("#glance", "GPU 2 does not have the model that it is asked for; GPU answers")
    page.wait(card("'max_gpu:2'"), f"127.0.0.1:{cpu.port} does not have the model")
    assert "in service" in page.text(card("max_gpu"))
    page.wait(card("max_gpu"), "· 3 so far, by its 2 servers")
    assert "so far" not in page.text(card("'max_gpu:2'"))
    titles = [title.text for title in page.all("#tiers h3")]
    assert titles == ["GPU", "GPU 2", "Cache"]


def test_where_no_tier_can_answer_the_lines_that_wait_are_counted(fleet, gpu, cpu, page):
    fleet.settings.update(LONG)
    gpu.vanish()
    cpu.vanish()
    api = both(fleet.api(), fleet.worker(slice_lines=16))
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any") as sdk:
        batch = start(sdk, [line(f"c{n}", f"{PRIVATE} {n}") for n in range(200)])
        page.open(api.url)
        page.wait("#glance", "Waiting: no tier can answer, 200 lines")
        asked = {"prompt": PRIVATE, "on_exhausted": "wait"}
        assert httpx.post(f"{api.url}/v1/jobs", json=asked).is_success
        page.wait("#glance", "Waiting: no tier can answer, 200 lines and 1 job")

        def work(name):
            return page.text(f"#work [data-name='{name}'] dd")

        assert [work(f"{what} running") for what in ("jobs", "lines")] == ["0", "0"]
        told = httpx.get(f"{api.url}/metrics").json()["metrics"]["unfinished"]
        assert sum(told["lines"].values()) == 200
        assert sum(told["jobs"].values()) == 1
        assert work("waiting for a tier") == "200 lines and 1 job"
        sdk.batches.cancel(batch.id)
        page.wait("#glance", "Waiting: no tier can answer, 1 job")
    assert page.complaints() == []


def test_an_outage_is_shown_with_its_countdown_its_jobs_and_its_batch(outage, page):
    page.open(outage.url)
    page.wait(card("max_gpu"), "out of service")
    assert page.text("#glance") == "GPU out of service; CPU answers"

    def left():
        found = re.search(r"next probe in (\d+)\ss", page.text(card("max_gpu")))
        return int(found[1]) if found else 0

    first = wait_until(left)
    wait_until(lambda: 0 < left() < first, what="the countdown runs")
    rows = [row.split("\t") for row in page.text("#jobs").splitlines()]
    assert len(rows) == 4
    assert {(row[1], row[2]) for row in rows} == {("succeeded", "cpu")}
    assert all(re.fullmatch(r"[\d,]+ ms", row[3]) for row in rows)

    def done():
        return page.run("return document.querySelector('#batches progress')?.value ?? 0")

    some = wait_until(done, what="the batch's bar begins")
    wait_until(lambda: some < done() < 600, what="the bar moves")
    page.wait("#batches", "lines a")
    page.wait("#batches", "left")
    assert "in progress" in page.text("#batches")
    assert "of 600" in page.text("#batches")
    assert PRIVATE not in page.driver.page_source
    assert page.complaints() == []


def test_an_admin_resets_a_breaker_with_the_keyboard_and_keeps_the_place(fleet, gpu, page):
    fleet.settings.update(LONG)
    gpu.mode = "500"
    api = both(fleet.api(), fleet.worker())
    open_breaker(api, page)

    def focused():
        return page.driver.switch_to.active_element.get_attribute("aria-label")

    for _ in range(20):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        if focused() == "Reset breaker max_gpu":
            break
    assert focused() == "Reset breaker max_gpu"
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(card("max_gpu"), "in service")
    assert page.text("#said") == "Breaker max_gpu is closed."
    assert focused() == "Reset breaker max_gpu"
    asked = httpx.get(f"{api.url}/circuit-breakers").json()["circuit_breakers"]
    assert asked["max_gpu"]["state"] == "closed"


def test_a_wrong_key_is_refused_and_an_admins_is_kept_in_the_tab(kept, page):
    page.open(kept.url)
    enter(page, "not-a-key-of-theirs")
    page.wait("#refused", "refused (401)")
    assert page.find("#key").get_attribute("aria-invalid") == "true"
    assert not page.find("#all").is_displayed()
    assert page.run("return sessionStorage.getItem('key')") is None
    enter(page, ROOT)
    page.wait(card("max_gpu"), "in service")
    assert not page.find("#login").is_displayed()
    assert len(page.all("#tiers button")) == 3
    page.open(kept.url)
    page.wait(card("max_gpu"), "in service")
    assert not page.find("#login").is_displayed()
    assert page.run("return sessionStorage.getItem('key')") == ROOT
    assert page.run("return localStorage.length") == 0


UNSENDABLE = {
    "\u200b": "an invisible character (U+200B)",
    "\u00e9": "\u00e9 (U+00E9)",
    "\u20ac": "\u20ac (U+20AC)",
    " ": "a blank",
}


@pytest.mark.parametrize("odd", UNSENDABLE)
def test_a_key_that_no_request_can_carry_is_refused_with_what_is_odd(kept, page, odd):
    page.open(kept.url)
    enter(page, ANN[:10] + odd + ANN[10:])
    page.wait("#refused", f"This is no API key: there is {UNSENDABLE[odd]} in it.")
    assert page.find("#key").get_attribute("aria-invalid") == "true"
    assert page.text("#glance") == "This server wants an API key"
    enter(page, ANN)
    page.wait("#limited", "not an admin's (403)")
    assert page.text("#refused") == ""
    page.find("#forget").click()


def test_a_kept_key_that_no_request_can_carry_is_not_sent(kept, page):
    page.open(kept.url)
    page.wait("#login", "API key")
    page.run("sessionStorage.setItem('key', 'key\u200b')")
    page.driver.refresh()
    page.wait("#refused", "an invisible character (U+200B)")
    page.open(f"{kept.url}/#/jobs")
    enter(page, ANN)
    page.wait("#view", "There is no job yet.")
    page.find("#forget").click()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("() => Response.json(null)", "This page cannot be shown: "),
        ("() => new Response('<html>')", "cannot be shown: what came back is not JSON"),
        ("() => { throw new TypeError('Failed to fetch') }", "The API does not answer."),
    ],
)
def test_a_fault_that_is_no_outage_is_not_told_as_one(api, page, reply, told):
    page.open(f"{api.url}/#/jobs")
    page.wait("#at", "as of")
    page.run(f"window.fetch = async () => ({reply})()")
    page.wait("#glance", told)


def test_metrics_are_shown_to_a_key_that_a_link_cannot_carry(kept, page):
    page.open(kept.url)
    enter(page, ROOT)
    page.wait(card("max_gpu"), "in service")
    page.find("#metrics").click()
    page.wait("body", '"circuit_breakers"')


def test_a_key_that_is_no_admins_sees_its_own_jobs_and_no_reset(kept, page):
    ask(kept, "mine", ANN)
    ask(kept, "not mine", ROOT)
    page.open(kept.url)
    enter(page, ANN)
    page.wait("#limited", "not an admin's (403)")
    page.wait("#jobs", "succeeded")
    assert len(page.text("#jobs").splitlines()) == 1
    assert page.all("#operations") == []
    assert page.all("#tiers button") == []
    assert [link.text for link in page.all("#more a")] == ["API docs"]
    page.find("#forget").click()
    page.wait("#login", "API key")
    assert page.run("return sessionStorage.length") == 0
    assert page.text("#jobs") == ""


@pytest.mark.parametrize("wants_key", [False, True])
def test_a_phone_needs_no_scrolling_to_the_side(outage, fleet, page, wants_key):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.tell("Emulation.setDeviceMetricsOverride", **size)
    api = fleet.api(api_keys=f"root!={ROOT}").start() if wants_key else outage
    page.open(api.url)
    if wants_key:
        page.wait("#login", "API key")
    else:
        page.wait("#batches", "in progress")
        page.wait("#jobs", "cpu")
    assert page.run("return innerWidth") == 360
    assert page.run("return document.documentElement.scrollWidth") <= 360
    wide = "const w = document.querySelector('#wide'); return w ? w.scrollWidth - w.clientWidth : 0"
    assert page.run(wide) <= 0


def test_dark_and_light_differ_and_both_can_be_read(outage, page):
    page.open(outage.url)
    page.wait("#batches", "in progress")
    found = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.tell("Emulation.setEmulatedMedia", features=[feature])
        colours = page.run(COLOURS)
        assert len(colours) > 40
        found[scheme] = page.run("return getComputedStyle(document.body).backgroundColor")
        hard = [each for each in colours if contrast(*each[1:]) < AA]
        assert hard == []
    assert luminance(found["dark"]) < 0.05
    assert luminance(found["light"]) > 0.8


def test_an_api_that_goes_away_is_told_and_its_return_is_noticed(outage, page):
    page.open(outage.url)
    page.wait(card("max_gpu"), "next probe in")
    outage.stop()
    page.wait("#glance", "The API does not answer. What is shown is from ")
    page.wait("#next", "Next try in")
    page.wait("#h-tiers", "Tiers")
    assert "next probe: not known" in page.text(card("max_gpu"))
    assert page.find("#all").get_attribute("class") == "stale"
    outage.start()
    page.wait("#glance", "GPU out of service")
    assert page.find("#all").get_attribute("class") == ""
    assert page.text("#next") == ""


def test_a_store_that_goes_away_is_told_as_the_api_tells_it(own_fleet, own_valkey, page):
    api = own_fleet.api().start()
    page.open(api.url)
    page.wait("#glance", "No worker is running")
    own_valkey.kill()
    page.wait("#glance", "The API cannot tell (503)")
    own_valkey.start()
    page.wait("#glance", "No worker is running")


def test_everything_that_can_be_used_or_read_off_has_a_name(outage, page):
    page.open(outage.url)
    page.wait("#batches", "in progress")
    nodes = page.tell("Accessibility.getFullAXTree")["nodes"]
    seen = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    named = {"button", "link", "table", "progressbar", "region", "heading", "navigation"}
    assert [each for each in seen if each[0] in named and not each[1]] == []
    roles = [role for role, _ in seen]
    assert named | {"banner", "main", "columnheader", "status"} <= set(roles)
    assert {n for r, n in seen if r == "region"} == {
        *("Tiers", "Queues and workers", "Last hours", "Batches", "Latest jobs")
    }
    assert page.run("return document.querySelectorAll('h1').length") == 1
    assert page.run("return document.documentElement.lang") == "en"


def test_a_finished_batch_stays_to_be_seen(api, page):
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any") as sdk:
        done = ended(sdk, start(sdk, [line("a", PRIVATE)]).id)
        page.open(api.url)
        page.wait("#batches", "completed: 1 of 1")
        page.wait("#batches", "gpu 1 (gpu-model)")
        page.wait("#batches", done.id)
