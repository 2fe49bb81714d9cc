from pathlib import Path

from gpuopt.storage import has_parts, part_file


def test_parts_are_numbered_from_the_second_on():
    assert part_file(Path("a/p.csv")) == Path("a/p.csv.part")
    assert part_file(Path("a/p.csv"), 1) == Path("a/p.csv.part2")


def test_any_part_is_found_and_nothing_else(tmp_path):
    output = tmp_path / "p.csv"
    for name in ("p.csv", "p.csv.party", "p.csv.part.bak", "xp.csv.part", "p.csv.part2b"):
        (tmp_path / name).touch()
        assert not has_parts(output)
    for number in (0, 1, 11):
        part_file(output, number).touch()
        assert has_parts(output)
        part_file(output, number).unlink()
    assert not has_parts(tmp_path / "nowhere/p.csv")
