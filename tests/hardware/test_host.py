from gpuopt.hardware.host import look_at_host


def plug(bus, name, vendor, kind):
    (bus / name).mkdir(parents=True)
    (bus / name / "vendor").write_text(f"{vendor}\n")
    (bus / name / "class").write_text(f"{kind}\n")


def test_cards_are_counted_on_the_bus_whether_a_driver_has_them_or_not(tmp_path):
    plug(tmp_path, "01:00.0", "0x10de", "0x030000")
    plug(tmp_path, "01:00.1", "0x10de", "0x040300")  # its sound
    plug(tmp_path, "02:00.0", "0x10de", "0x030200")
    plug(tmp_path, "03:00.0", "0x1002", "0x030000")  # of another maker
    assert look_at_host(bus=tmp_path).cards_on_bus == 2
    assert look_at_host(bus=tmp_path / "none").cards_on_bus == 0


def test_a_linux_in_windows_names_its_maker(tmp_path):
    kernel = tmp_path / "version"
    kernel.write_text("Linux version 5.15.153.1-microsoft-standard-WSL2")
    assert look_at_host(kernel=kernel).is_wsl
    kernel.write_text("Linux version 6.8.0-generic")
    assert not look_at_host(kernel=kernel).is_wsl


def test_what_hides_cards_is_kept(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    host = look_at_host()
    assert host.visible_devices == "1"
    assert 1 <= host.cpus <= host.machine_cpus
    assert host.as_dict()["memory_bytes"] > 0
