"""The folder of a person, and the settings of their runs."""

from pathlib import Path

import pytest

from training.ui.person import DEFAULTS, Person, config_for, defaults_of, need
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.profiles import PROFILES


@pytest.fixture
def ann(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Person:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path))
    return Person.of("ann")


def test_a_name_is_a_folder_among_the_runs_and_a_path_is_itself(ann: Person, tmp_path: Path) -> None:
    assert (ann.folder, ann.name) == (tmp_path / "ann", "ann")
    assert Person.of(str(tmp_path / "elsewhere")).folder == tmp_path / "elsewhere"
    with pytest.raises(RequestError, match="person: must be a name"):
        Person.of(" ")


def test_every_profile_has_defaults() -> None:
    assert set(DEFAULTS) == set(PROFILES)
    with pytest.raises(RequestError, match=r"profile: must be .*'full'.*'huge'"):
        defaults_of("huge")


def test_given_values_override_the_recipe_and_auto_keeps_it(ann: Person) -> None:
    config = config_for(ann, "full", max_train_steps="auto", rank=32, sample_every_n_steps="7")
    assert (config.samples, config.run, config.profile) == (ann.samples, ann.run, "full")
    assert (config.rank, config.alpha, config.max_train_steps, config.gradient_accumulation_steps) == (
        32,
        64.0,
        None,
        8,
    )
    assert config.sample_every_n_steps == 7
    assert config_for(ann, "full", "pocket").gradient_accumulation_steps == 2
    assert config_for(ann, "pocket").mixed_precision == "no"


def test_a_person_has_several_runs_each_with_a_name(ann: Person) -> None:
    assert config_for(ann, "pocket", run="rank_4").run == ann.folder / "rank_4" == ann.run_named("rank_4")
    assert ann.run_named("training") == ann.run == config_for(ann, "pocket").run
    for name in ("", "../other", "data", "samples", ".hidden"):
        with pytest.raises(RequestError, match="run: must be letters, digits"):
            ann.run_named(name)
    for name in ("rank_4", "training", "not_begun"):
        ann.run_named(name).mkdir(parents=True)
    for name in ("training", "rank_4"):
        (ann.run_named(name) / "metrics.jsonl").touch()
    assert ann.runs() == [ann.folder / "rank_4", ann.run]


def test_a_bad_value_is_refused_with_its_name(ann: Person) -> None:
    with pytest.raises(RequestError, match=r"rank: must be greater than or equal to 1 \(got 0\)"):
        config_for(ann, "pocket", rank=0)
    with pytest.raises(RequestError, match=r"steps: must be .*'half'"):
        config_for(ann, "pocket", max_train_steps="half")
    with pytest.raises(RequestError, match=r"recipe: 'poket' is not a recipe; did you mean 'pocket'\?"):
        config_for(ann, "pocket", "poket")


def test_a_missing_file_is_named_with_the_notebook_that_makes_it(ann: Person) -> None:
    with pytest.raises(LabError, match="Run notebook 10_prepare first"):
        need(ann.data, "10_prepare")
