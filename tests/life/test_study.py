"""Who takes which trial of a study, and which is not worth its end."""

import pytest

from yantai.base.errors import NumericsError
from yantai.life import study
from yantai.life.settings import Tune
from yantai.life.trial import Trial, reporter

VALIDATIONS = 4


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Takes trials that report what `score` says of a rate and a validation."""
    pytest.importorskip("optuna", reason="pip install 'yantai[tune]'")

    def take(score, **changes):
        reached = []

        def run_trial(base, values, folder, seed, *, watch=None, threads=None):
            reached.append(0)
            told = reporter(watch) if base.prune else lambda step, value: None
            for at in range(1, VALIDATIONS + 1):
                reached[-1] = at
                told(10 * at, score(values["rate"], at))
            return score(values["rate"], VALIDATIONS)

        monkeypatch.setattr(study, "run_trial", run_trial)
        settings = Tune(recipe=tmp_path / "recipe.yaml", out=tmp_path, **changes)
        base = Trial("finetune", {}, tmp_path, prune=settings.prune)
        space = study.Space(fields={"rate": study.Range(low=0.0, high=1.0)})
        try:
            study.take_trials(settings, base, space, worker=0)
        finally:
            found = study.open_study(tmp_path / "study.journal", 0, prune=False).trials
        return found, reached

    return take


def test_a_trial_that_falls_behind_is_stopped_and_counts(trials):
    def better_and_better(rate, at):
        return rate + at

    found, reached = trials(better_and_better, trials=24)
    states = [each.state.name for each in found]
    assert len(found) == 24 and states.count("PRUNED") >= 3
    finished = [each.value for each in found if each.state.name == "COMPLETE"]
    for each, count in zip(found, reached, strict=True):
        assert (count == VALIDATIONS) == (each.state.name == "COMPLETE")
        if each.state.name == "PRUNED":
            assert each.params["rate"] + VALIDATIONS < max(finished)


def test_nothing_is_stopped_where_that_was_asked_for(trials):
    found, reached = trials(lambda rate, at: rate + at, trials=24, prune=False)
    assert {each.state.name for each in found} == {"COMPLETE"}
    assert reached == [VALIDATIONS] * 24


def test_what_a_value_breaks_is_kept_and_the_others_go_on(trials, tmp_path):
    broken = []

    def score(rate, at):
        if rate > 0.5:
            broken.append(rate)
            raise NumericsError("E601", "loss", "is not finite")
        return rate

    found, _ = trials(score, trials=10)
    failed = [each for each in found if each.state.name == "FAIL"]
    assert len(found) == 10 and len(failed) == len(set(broken)) > 0
    for each in failed:
        line = (tmp_path / "trials" / f"{each.number:04d}.error.txt").read_text()
        assert "E601" in line and each.user_attrs["error"] == line.strip()


def test_a_trial_that_was_cut_off_is_taken_up_again_and_no_more_are_made(trials, tmp_path):
    class Killed(BaseException):
        pass

    left = [3]

    def score(rate, at):
        left[0] -= at == 1
        if left[0] < 0:
            raise Killed
        return rate

    with pytest.raises(Killed):
        trials(score, trials=6, prune=False)
    left[0] = 100
    opened = study.open_study(tmp_path / "study.journal", 0, prune=False)
    (died,) = [each for each in opened.trials if each.state.name == "RUNNING"]
    study.put_back(opened, tmp_path)
    found, _ = trials(score, trials=6, prune=False)
    done = [each for each in found if each.state.name == "COMPLETE"]
    assert len(done) == len(study.counted_trials(opened)) == 6
    assert sum(each.params == died.params for each in done) == 1
