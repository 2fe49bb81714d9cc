"""The page in a real browser: values change, charts are drawn, nothing is lost or let in."""

import pytest

from gpuopt.telemetry import HostReading, Sample, Subscription
from gpuopt.telemetry.web import WebServer
from tests.telemetry.samples import FULL, card, sample
from tests.telemetry.web.browser import Browser, chromium

pytestmark = pytest.mark.slow

# What the chart of a card says, and how much of it is drawn on.
VALUE = (
    """document.querySelector('[data-card="{card}"] [data-chart="{chart}"] .value')?.textContent"""
)
DRAWN = """(() => {{
    const canvas = document.querySelector('[data-card="{card}"] [data-chart="{chart}"] canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((value, i) => i % 4 === 3 && value > 200).length;
}})()"""
COLOUR = "getComputedStyle(document.querySelector('.card')).backgroundColor"
STATE = "document.getElementById('state').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = chromium()
    if program is None:
        pytest.skip("needs Chromium")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    """A page, and the subscription that feeds it."""
    subscription = Subscription(1000)
    server = WebServer(subscription, port=0)
    server.start()

    def show(**options):
        browser.problems.clear()
        browser.show(f"http://127.0.0.1:{server.port}/", **options)
        return subscription

    yield show
    subscription.end()
    server.stop()


def value(browser, card, chart):
    return browser.run(VALUE.format(card=card, chart=chart))


def wait_for_value(browser, card, chart, expected):
    browser.wait_for(f"{VALUE.format(card=card, chart=chart)} === '{expected}'")


def test_a_value_changes_and_its_history_is_drawn(browser, page):
    feed = page()
    browser.wait_for(f"{STATE} === 'waiting for the first sample'")
    for number in range(60):
        feed.put(sample(number, card(**{**FULL, "utilisation_ratio": number / 100})))
    wait_for_value(browser, "gpu0", "utilisation", "59 %")
    assert browser.run(STATE) == "live"
    assert value(browser, "gpu0", "memory") == "60.0 / 80.0 GiB"
    assert value(browser, "host", "CPU") == "25 %"
    assert value(browser, "run", "train/loss_step") == "0.5"
    assert "power_cap 12 s (now)" in browser.run("document.body.innerText")
    assert "python train.py" in browser.run("document.body.innerText")
    before = browser.wait_for(DRAWN.format(card="gpu0", chart="utilisation"))
    assert before > 100
    feed.put(sample(60, card(**{**FULL, "utilisation_ratio": 0.07})))
    wait_for_value(browser, "gpu0", "utilisation", "7 %")
    feed.end()
    browser.wait_for(f"{STATE} === 'the monitor has ended'")
    assert browser.problems == []


def test_what_is_unavailable_is_no_number(browser, page):
    feed = page()
    feed.put(sample(0, card(power_w=90.0), throttled_s={}, used_j={}, training={}))
    wait_for_value(browser, "gpu0", "power", "90 W")
    for name in ("utilisation", "memory", "temperature"):
        assert value(browser, "gpu0", name) == "n/a"
        assert browser.run(DRAWN.format(card="gpu0", chart=name)) == 0
    facts = browser.run("[...document.querySelectorAll('dd')].map((fact) => fact.textContent)")
    assert set(facts) == {"n/a", "n/a, n/a"}
    assert browser.run("document.querySelector('[data-card=run]')") is None


def test_a_device_that_is_lost_keeps_the_scale_of_its_charts(browser, page):
    feed = page()
    for number in range(30):
        feed.put(sample(number, card(**FULL)))
    feed.put(sample(30, card(0)))
    wait_for_value(browser, "gpu0", "memory", "n/a")
    # 60 of 80 GiB: the upper quarter of the chart is empty, and no numbers of a scale stand there.
    empty = browser.wait_for("""(() => {
        const canvas = document.querySelector('[data-card=gpu0] [data-chart=memory] canvas');
        const context = canvas.getContext('2d'), rows = Math.round(canvas.height / 5);
        const upper = context.getImageData(0, 0, canvas.width, rows).data;
        const all = context.getImageData(0, 0, canvas.width, canvas.height).data;
        if (!all.some((value) => value > 0)) return null;
        return upper.every((value) => value === 0) ? 'empty' : 'drawn';
    })()""")
    assert empty == "empty"


def test_a_clock_that_was_set_back_begins_the_charts_anew(browser, page):
    feed = page()
    for number in range(60):
        feed.put(sample(number, training={"loss": 1.0 * number}))
    wait_for_value(browser, "run", "loss", "59")
    for number in range(60, 70):
        feed.put(sample(number, time_s=5000.0 + number, training={"loss": 1.0}))
    wait_for_value(browser, "run", "loss", "1")
    # A value that never changes stands in the middle; between the earlier 0 and 59, at the bottom.
    browser.wait_for("""(() => {
        const canvas = document.querySelector('[data-card=run] [data-chart=loss] canvas');
        const row = Math.round(0.7 * canvas.height);
        const pixels = canvas.getContext('2d').getImageData(canvas.width - 2, row, 1, 1).data;
        return pixels[3] > 0;
    })()""")


def test_what_is_older_than_a_chart_is_forgotten(browser, page):
    """A page may stay open for days."""
    page().put(sample())
    wait_for_value(browser, "gpu0", "utilisation", "75 %")
    left = browser.run("""import('/chart.js').then(({ forget }) => {
        const points = Array.from({ length: 1000 }, (_, second) => ({ time: second, value: 1 }));
        forget(points);
        return points[0].time;
    })""")
    assert left == 399


def test_the_time_of_another_day_has_its_date(browser, page):
    feed = page()
    feed.put(sample())
    wait_for_value(browser, "gpu0", "utilisation", "75 %")
    assert "2023" in browser.wait_for("document.getElementById('time').textContent")


def test_a_machine_without_a_gpu(browser, page):
    page().put(Sample(1_700_000_000.0, (), HostReading(0.5, 2**30, 2**31)))
    wait_for_value(browser, "host", "CPU", "50 %")
    assert browser.run("document.querySelector('[data-card=gpu0] h2').textContent") == "no GPU"
    assert value(browser, "gpu0", "utilisation") == "n/a"


@pytest.mark.parametrize("dark", [False, True])
def test_it_follows_the_theme(browser, page, dark):
    page(dark=dark).put(sample())
    wait_for_value(browser, "gpu0", "utilisation", "75 %")
    assert browser.run(COLOUR) == ("rgb(26, 30, 35)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_a_phone(browser, page, width):
    cards = [card(index, **{**FULL, "name": "N" * 60}) for index in range(4)]
    page(width=width, phone=width < 800).put(
        sample(0, *cards, training={"a/very_long_name_of_some_metric_that_somebody_logs": 123.456})
    )
    browser.wait_for("document.querySelectorAll('[data-card]').length === 6")
    assert browser.run("document.documentElement.scrollWidth") <= width
    edges = "[...document.querySelectorAll('main *')].map(e => e.getBoundingClientRect().right)"
    assert browser.run(f"Math.max(...{edges})") <= width


def test_names_of_others_are_only_text(browser, page):
    name = "<img src=x onerror=alert(1)>"
    known = {**FULL, "name": name, "throttle_reasons": [name]}
    page().put(sample(0, card(**known), training={name: 1.0}, throttled_s={0: {name: 2.0}}))
    browser.wait_for("document.querySelectorAll('[data-card]').length === 3")
    assert browser.run("document.querySelector('main img')") is None
    assert name in browser.run("document.querySelector('h2').textContent")
    assert browser.problems == []


def test_it_goes_on_with_a_monitor_that_was_started_again(browser):
    def serve(port, ratio):
        subscription = Subscription(10)
        server = WebServer(subscription, port=port)
        server.start()
        subscription.put(sample(0, card(utilisation_ratio=ratio)))
        return server, subscription

    first, first_feed = serve(0, 0.75)
    browser.show(f"http://127.0.0.1:{first.port}/")
    wait_for_value(browser, "gpu0", "utilisation", "75 %")
    first.stop()  # before its samples have ended, so that the stream breaks off
    browser.wait_for(f"{STATE} === 'not connected, trying again'")
    second, second_feed = serve(first.port, 0.5)
    wait_for_value(browser, "gpu0", "utilisation", "50 %")
    assert browser.run(STATE) == "live"
    first_feed.end()
    second_feed.end()
    second.stop()
