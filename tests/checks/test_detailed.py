import json
from dataclasses import replace

from gpuopt.checks import make_report
from gpuopt.hardware import CardFacts, CardLink, DeviceProcess, DeviceReading
from tests.checks.machines import CARD, EMPTY, MACHINE, preset, request, with_card
from tests.checks.test_summary import shown


def ask(machine=MACHINE, **changes):
    return make_report("detailed", request(machine, **changes))


def test_all_facts_of_a_card_are_there():
    found = ask(with_card(processes=[DeviceProcess(4711, "trainer", 2**28)]))
    text = shown(found)
    for words in (
        "0.2 GiB used, 11.8 GiB free",
        "8.6, 28 SMs",
        "30 of 170 W; as shipped 170 W, may be set from 100 to 212 W",
        "41 degrees",
        "generation 4, 16 of 16 lanes",
        "trainer",
        "0000-01",
        "Pitfalls: none seen",
    ):
        assert words in text


def test_a_card_of_which_nothing_is_known_reads_na_everywhere():
    bare = replace(CARD, facts=CardFacts(), reading=DeviceReading(0))
    text = shown(ask(replace(MACHINE, cards=(bare,))))
    assert "n/a used, n/a free" in text
    assert "generation n/a, n/a of n/a lanes" in text
    assert " 0 W" not in text


def test_links_between_cards():
    link = CardLink(0, 1, "between NUMA nodes", reads_peer=False, nvlinks=None)
    second = replace(CARD, device=replace(CARD.device, index=1))
    machine = replace(MACHINE, cards=(CARD, second), links=(link,), cards_of_driver=2)
    text = shown(ask(machine))
    assert "between NUMA nodes" in text
    assert "Device 1" in text


def test_a_card_that_is_not_here_has_what_its_preset_says():
    found = ask(EMPTY, gpu=preset("rtx4090"))
    text = shown(found)
    assert "RTX 4090, as gpu=rtx4090 has it" in text
    assert "1008 GB/s" in text
    assert "Device 0" not in text


def test_json_holds_the_same():
    values = json.loads(json.dumps(ask().as_dict(), allow_nan=False))
    assert values["machine"]["cards"][0]["facts"]["pcie_width"] == 16
    assert values["machine"]["driver"] == "580.65.06"
    assert values["build"]["cudnn"] == "9.24.0"
    assert values["devices"][0]["facts"]["FP8"] == "no"
