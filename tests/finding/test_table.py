import io
import json
from dataclasses import replace

from rich.console import Console

from gpuopt.choice import Choice
from gpuopt.finding.answer import CardAnswer, FindAnswer, SizedProbe
from gpuopt.finding.table import find_table

THRASHES = "does not fit: allocator thrashes"
THRASHED = SizedProbe(56, 8 * 2**30, 700.0, False, thrashed=True)
CARD = CardAnswer(
    card="Card [bold]",
    device_index=1,
    evidence="measured",
    reason="on the card itself",
    precision="bf16",
    headroom_ratio=0.08,
    context_bytes=None,
    free_bytes=10 * 2**30,
    budget_bytes=9 * 2**30,
    largest=40,
    knee=24,
    chosen=32,
    why="40 fit",
    probes=(SizedProbe(16, 3 * 2**30, 100.0, True), SizedProbe(64, None, None, False), THRASHED),
    levels={"none": 40, "full": 200},
)
ANSWER = FindAnswer(
    purpose="train",
    model_name="net",
    image_size=224,
    checkpointing="none",
    cards=[CARD],
    choice=Choice("micro_batch_size", 32, "measured", "40 fit"),
    notes=["a note [red]"],
)


def shown(answer):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(find_table(answer))
    return console.export_text()


def test_probes_and_what_was_found_are_shown():
    text = shown(ANSWER)
    rows = [line.split() for line in text.splitlines()]
    assert ["16", "3.00", "33.3%", "100.0", "160", "fits"] in rows
    assert ["64", "out", "of", "memory", "does", "not", "fit"] in rows
    assert ["56", "8.00", "88.9%", "700.0", "80", *THRASHES.split()] in rows
    assert "device 1: Card [bold]" in text  # names are no markup
    assert "9.00 of 10.00 GiB beside the CUDA context, headroom 8%" in text
    assert ["max", "40", "measured"] in rows
    assert any(row[:2] == ["knee", "24:"] for row in rows)
    assert "none 40, full 200; here none" in text
    assert "a note [red]" in text
    assert str(ANSWER.choice) in text


def test_the_context_that_a_prediction_assumes_is_told():
    text = shown(replace(ANSWER, cards=[replace(CARD, context_bytes=2**29)]))
    assert "9.00 of 10.00 GiB beside the CUDA context of 0.50, headroom 8%" in text


def test_what_is_not_known_is_left_out():
    cpu = replace(
        CARD, device_index=None, budget_bytes=None, free_bytes=None, largest=None, knee=None,
        probes=(), levels={},
    )  # fmt: skip
    text = shown(replace(ANSWER, cards=[cpu], notes=[]))
    for word in ("Probes", "budget", "max", "knee", "checkpointing", "device"):
        assert word not in text


def test_an_answer_survives_json():
    assert CardAnswer.from_dict(json.loads(json.dumps(CARD.as_dict()))) == CARD
