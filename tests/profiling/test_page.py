import re
from html.parser import HTMLParser

import pytest

from gpuopt.profiling import profile_of, trace_of
from gpuopt.profiling.page import FileNote, profile_page
from tests.profiling.events import copy, kernel, memory, on_device, on_host, operator

HOSTILE = '<script>alert("x")</script>'
EMPTY_TAGS = {"meta", "rect", "path", "!doctype"}


class Checked(HTMLParser):
    """Fails where a tag is not closed in its order; collects texts by tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))


def page(events, **options):
    profile = profile_of(trace_of(events), plain_step_ms=0.5)
    facts = {"model": HOSTILE, "device": "cpu"}
    return profile_page(profile, facts, **options)


@pytest.fixture
def shown():
    events = [*on_device(), memory(1100, 64, 64, True, 512), memory(1200, 64, 128, True, 512)]
    files = [FileNote("trace.json.gz", "every event")]
    return Checked(page(events, files=files, choices=["precision=bf16 (table: x)"]))


def test_the_sentence_that_matters_most_comes_first(shown):
    texts = [text for tag, text in shown.texts if tag not in ("title", "style")]
    assert texts[1] == "A step takes 1 ms: aten::conv takes 0.645 ms of it (64%)."
    assert shown.texts[[tag for tag, _ in shown.texts].index("h1")][1] == texts[1]
    below = [tag for tag, _ in shown.texts[[tag for tag, _ in shown.texts].index("h1") :]]
    assert below.index("p") < below.index("dt")


def test_every_part_has_its_section(shown):
    titles = [text for tag, text in shown.texts if tag == "h2"]
    assert titles == [
        "The step, on the device",
        "Phases",
        "Kernels",
        "Operators",
        "Synchronisations",
        "Copies",
        "Memory",
        "Files",
        "How it was measured",
    ]
    on_cpu = Checked(page(on_host()))
    titles = [text for tag, text in on_cpu.texts if tag == "h2"]
    assert titles == ["The step, on the host", "Phases", "Operators", "How it was measured"]


def test_the_page_needs_nothing_else_and_runs_nothing(shown):
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in shown.tags}
    targets = [attributes.get(key) for _, attributes in shown.tags for key in ("href", "src")]
    addresses = [target for target in targets if target]
    assert addresses == ["trace.json.gz"]
    text = page(on_device())
    assert not re.search(r"https?:|url\(|@import|\son\w+=", text)
    assert "width=device-width" in text
    assert "prefers-color-scheme:dark" in text


def test_whatever_is_in_a_name_is_text():
    events = [*on_host(), operator(HOSTILE, 901, 949), kernel(HOSTILE, 1, 990, 1), copy(991, 992)]
    text = page(events, files=[FileNote('a"b', HOSTILE)], choices=[HOSTILE])
    shown = Checked(text)
    assert "<script" not in text
    assert any(HOSTILE in found for _, found in shown.texts)


def test_long_names_are_cut_and_kept_beside():
    name = "void at::native::vectorized_elementwise_kernel<4, at::native::Functor_add<float>, x>"
    shown = Checked(page([*on_host(), kernel(name, 1, 990, 1)]))
    (cut,) = [text for tag, text in shown.texts if tag == "code" and text.endswith("…")]
    assert len(cut) == 72
    assert name in [attributes.get("title") for _, attributes in shown.tags]


def test_bars_are_as_long_as_their_share(shown):
    widths = [float(a["width"]) for tag, a in shown.tags if tag == "rect" and "x" in a]
    assert sum(widths) == pytest.approx(100, abs=0.01)
