from types import SimpleNamespace

from gpuopt.hardware.card_facts import CardFacts, handle_of, nvml_value, read_card_facts


class FakeError(Exception):
    pass


class Nvml:
    """pynvml of one card, as far as these facts go."""

    NVMLError = FakeError
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(self, *failing):
        self.failing = failing

    def __getattr__(self, query):
        answers = {
            "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(busId=b"00000000:01:00.0"),
            "nvmlDeviceGetNumaNodeId": lambda handle: 1,
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 350_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda handle: 700_000,
            "nvmlDeviceGetPowerManagementLimitConstraints": lambda handle: [200_000, 700_000],
            "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 1980, 2: 3201}[kind],
            "nvmlDeviceGetMaxPcieLinkGeneration": lambda handle: 5,
            "nvmlDeviceGetCurrPcieLinkWidth": lambda handle: 8,
            "nvmlDeviceGetMaxPcieLinkWidth": lambda handle: 16,
            "nvmlDeviceGetEccMode": lambda handle: [1, 0],
            "nvmlDeviceGetMigMode": lambda handle: [0, 1],
            "nvmlDeviceGetPersistenceMode": lambda handle: 1,
            "nvmlDeviceGetComputeMode": lambda handle: 3,
        }
        if query not in answers:
            raise AttributeError(query)
        if query in self.failing:

            def fail(*_):
                raise FakeError("Not Supported")

            return fail
        return answers[query]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in ("GPU-a", "MIG-b"):
            raise FakeError("Not Found")
        return f"handle of {uuid}"


def test_facts_are_converted_to_plain_units():
    facts = read_card_facts(Nvml(), "a card")
    assert facts == CardFacts(
        bus_id="00000000:01:00.0",
        numa_node=1,
        power_limit_w=350.0,
        power_default_w=700.0,
        power_range_w=(200.0, 700.0),
        sm_clock_limit_mhz=1980,
        memory_clock_limit_mhz=3201,
        pcie_generation=5,
        pcie_width=8,
        pcie_width_limit=16,
        is_ecc_on=True,  # in force now, whatever it will be after a restart
        is_mig_on=False,
        is_persistent=True,
        compute_mode="exclusive_process",
    )
    assert facts.as_dict()["power_range_w"] == (200.0, 700.0)


def test_a_fact_that_nvml_does_not_tell_is_none_and_the_others_stay():
    facts = read_card_facts(Nvml("nvmlDeviceGetEccMode", "nvmlDeviceGetNumaNodeId"), "a card")
    assert (facts.is_ecc_on, facts.numa_node) == (None, None)
    assert facts.power_limit_w == 350.0


def test_a_library_that_lacks_a_query_is_no_error():
    assert nvml_value(Nvml(), "nvmlDeviceGetSomethingNew", "a card") is None


def test_a_slice_is_found_by_its_own_identity():
    assert handle_of(Nvml(), "a") == "handle of GPU-a"
    assert handle_of(Nvml(), "b") == "handle of MIG-b"
    assert handle_of(Nvml(), "c") is None
