"""A later, smaller evaluation into the same directory drops nothing that an earlier one wrote."""

import pytest

from umer1.evaluation import Report, evaluate


def run(embedder, benchmark, output, **options):
    return evaluate(embedder, benchmark, output_dir=output, progress=False, **options)


def test_tasks_modes_and_samples_of_earlier_calls_stay(
    fake_embedder_class, benchmark_dir, tmp_path
):
    names = ["digit", "caption", "pages"]
    whole = run(fake_embedder_class(), benchmark_dir, tmp_path, names=names, samples=3)
    second = fake_embedder_class()
    later = run(second, benchmark_dir, tmp_path, names=["caption"], modes="disc")
    assert second.calls == []
    assert later.to_dict() == whole.to_dict()
    assert Report.load(tmp_path / "report.json").to_dict() == whole.to_dict()
    assert later.settings["samples"] == 3


def test_modes_one_after_the_other_give_the_oracle_too(
    fake_embedder_class, benchmark_dir, tmp_path
):
    both = run(fake_embedder_class(), benchmark_dir, tmp_path / "both", names=["digit"])
    for mode in ("disc", "gen"):
        apart = run(fake_embedder_class(), benchmark_dir, tmp_path, names=["digit"], modes=mode)
    assert apart.tasks["digit"]["main"] == both.tasks["digit"]["main"]


def test_what_was_scored_by_other_rules_says_so(fake_embedder_class, benchmark_dir, tmp_path):
    names = ["digit", "caption"]
    run(fake_embedder_class(), benchmark_dir, tmp_path, names=names, modes="disc")
    later = run(
        fake_embedder_class(),
        benchmark_dir,
        tmp_path,
        names=["digit"],
        modes="disc",
        ties="upstream",
    )
    note = "caption: scored by an earlier call, with ties stable"
    assert [one for one in later.notes if "earlier" in one] == [note]
    # with the rules of before nothing is left to say, nor once all tasks are scored by the new ones
    for chosen, ties in ((["digit"], "stable"), (names, "upstream")):
        again = run(
            fake_embedder_class(), benchmark_dir, tmp_path, names=chosen, modes="disc", ties=ties
        )
        assert [one for one in again.notes if "earlier" in one] == []


def test_a_task_or_mode_whose_files_are_gone_leaves_the_report(
    fake_embedder_class, benchmark_dir, tmp_path
):
    run(fake_embedder_class(), benchmark_dir, tmp_path, names=["digit", "caption"])
    for path in [*tmp_path.glob("caption_*"), *tmp_path.glob("digit_gen_*")]:
        path.unlink()
    second = fake_embedder_class()
    later = run(second, benchmark_dir, tmp_path, names=["digit"], modes="disc")
    assert second.calls == []
    assert {name: list(entry["main"]) for name, entry in later.tasks.items()} == {"digit": ["disc"]}


def test_a_report_that_cannot_be_read_is_not_overwritten(embedder, benchmark_dir, tmp_path):
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ValueError, match="report.json"):
        run(embedder, benchmark_dir, tmp_path, names=["digit"])
    assert embedder.calls == []
