"""The command line: layers of settings, error lines, exit statuses, JSON on standard output."""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

from yantai.cli import VERBS, main
from yantai.text.village import Village

TINY = shlex.split(
    "--size nano --layers 1 --dim 32 --heads 2 --context 64 --batch 4 --vocab-size 400 "
    "--threads 1 --dtype float32"
)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    with (folder / "village.jsonl").open("w", encoding="utf-8") as file:
        for row in Village(seed=1).documents(60):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(documents, tmp_path_factory):
    """A run made by the command line itself."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(["pretrain", "--data", str(documents), "--out", str(out), "--steps", "6", *TINY]) == 0
    )
    return out


def error_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    main([verb, "--help"])
    out = capsys.readouterr().out
    assert f"yantai {verb}" in out
    assert "Example:" in out
    assert "--json" in out
    assert "--config" in out
    assert "--seed" in out
    visible = {word for word in out.split() if word.startswith("--")}
    assert len(visible) <= 25 + 3


def test_help_is_quick_because_it_imports_no_torch():
    code = (
        "import sys; from yantai.cli import main; main(['--help']); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_what_only_scores_need_is_imported_when_something_is_scored():
    code = (
        "import sys, yantai.life.finetune, yantai.life.predict, yantai.life.doctor; "
        "late = {'sklearn', 'scipy', 'sacrebleu', 'rouge_score', 'matplotlib', 'optuna'}; "
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        (["genrate"], 2, "E202", "generate"),
        (["generate", "m", "--temprature", "1"], 2, "E202", "--temperature"),
        (["generate", "m", "--temperature", "-1"], 2, "E201", "temperature"),
        (["generate", "m", "--temperature", "0", "--top-k", "3"], 2, "E203", "no effect"),
        (["generate", "nowhere"], 2, "E206", "nowhere"),
        (["pretrain", "--out", "OUT"], 2, "E201", "--data"),
        (["pretrain", "--out", "OUT", "--data", "nowhere"], 2, "E206", "nowhere"),
        (
            ["pretrain", "--out", "OUT", "--data", "x", "--steps", "1", "--minutes", "1"],
            2,
            "E203",
            "one budget",
        ),
        (["pretrain", "--out", "OUT", "--data", "x", "--size", "tinny"], 2, "E201", "tiny"),
        (["pretrain", "--out", "OUT", "--data", "x", "--family", "lama"], 2, "E201", "llama"),
        (["verify", "nowhere"], 2, "E206", "nowhere"),
        (["run", "nowhere.yaml"], 2, "E206", "nowhere.yaml"),
        (["tokenizer", "--out", "t"], 2, "E201", "documents"),
    ],
)
def test_mistakes_are_one_line_with_code_place_and_status(
    arguments, status, code, words, capsys, tmp_path
):
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    assert main(arguments) == status
    line = error_line(capsys)
    assert line.startswith(f"error[{code}] ")
    assert words in line
    assert "Traceback" not in line


def test_an_existing_run_is_never_overwritten(run, documents, capsys):
    again = ["pretrain", "--data", str(documents), "--out", str(run), "--steps", "6", *TINY]
    before = (run / "model" / "model.safetensors").read_bytes()
    assert main(again) == 2
    assert "--resume" in error_line(capsys)
    assert (run / "model" / "model.safetensors").read_bytes() == before


def test_resuming_takes_what_is_not_said_again_from_the_run(run, capsys):
    assert main(["pretrain", "--out", str(run), "--resume", "--steps", "9", "--json"]) == 2
    assert "steps: 6 -> 9" in error_line(capsys)
    arguments = ["pretrain", "--out", str(run), "--resume", "--steps", "9"]
    assert main([*arguments, "--allow-change", "steps", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 9


def test_the_doctor_speaks_json_when_there_are_problems(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("text,label\n" + "a,b\n" * 60)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"verb: finetune\nmodel: scratch\ntask: classify\ndata: {tmp_path}/rows.csv\n"
                      f"out: {tmp_path}/run\nrate: 5\n")  # fmt: skip
    assert main(["doctor", str(recipe), "--json"]) == 2
    told = capsys.readouterr()
    found = json.loads(told.out)["findings"]
    problems = [each["line"] for each in found if each["level"] == "problem"]
    assert [line for line in problems if "far from sane" in line]
    assert [line for line in problems if "one class only" in line]
    last = told.err.splitlines()[-1]  # before it something may have been compiled
    assert last.startswith("error[E203]") and f"{len(problems)} problems" in last


def test_generate_evaluate_verify_doctor_speak_json_and_plain(run, documents, capsys):
    model = str(run / "model")
    assert main(["generate", model, "One", "--max-new-tokens", "5", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["texts"][0]
    assert text.startswith("One")
    assert main(["generate", model, "One", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == text + "\n"
    assert main(["evaluate", model, "--data", str(documents), "--against", model, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"} <= set(report)
    assert report["against"]["verdict"] == "no difference shown"
    assert main(["evaluate", model, "--data", str(documents)]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"]
    for what in ([], [model], [str(documents)]):
        assert main(["doctor", *what]) == 0
        assert "ok" in capsys.readouterr().out


def test_verify_names_the_broken_link(run, capsys, tmp_path):
    import shutil

    for victim in ("model/model.safetensors", "tokens/train/shard-00000.bin", "last/config.json"):
        copy = tmp_path / victim.replace("/", "-")
        shutil.copytree(run, copy)
        path = copy / victim
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        assert main(["verify", str(copy)]) in (3, 4)
        assert victim.rsplit("/", 1)[-1] in error_line(capsys)


def test_a_pretraining_without_its_tokenizer_does_not_hold(run, capsys, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "tokenizer")
    assert main(["verify", str(copy)]) == 4
    assert "tokenizer" in error_line(capsys)


def test_flag_over_environment_over_file_over_default(run, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"verb: generate\nmodel: {run / 'model'}\nprompt: One\nmax_new_tokens: 2\n")
    tokens = []
    for environment, flags in ((None, []), ("4", []), ("4", ["--max-new-tokens", "6"])):
        if environment:
            monkeypatch.setenv("YANTAI_GENERATE_MAX_NEW_TOKENS", environment)
        assert main(["run", str(recipe), "--json", *flags]) == 0
        tokens.append(len(json.loads(capsys.readouterr().out)["texts"][0]))
    assert tokens[0] < tokens[1] < tokens[2]
    recipe.write_text("verb: generate\nmodel: x\nmax_new_tokns: 2\n")
    assert main(["run", str(recipe)]) == 2
    assert "--max-new-tokens" in error_line(capsys)
    recipe.write_text("verb: fly\n")
    assert main(["run", str(recipe)]) == 2
    assert "fly" in error_line(capsys)
    recipe.write_text("verb: [unclosed\n")
    assert main(["run", str(recipe)]) == 3
    assert "recipe.yaml:2" in error_line(capsys)


def test_a_tokenizer_from_the_command_line_trains_a_run(documents, tmp_path, capsys):
    out = tmp_path / "tokenizer"
    assert (
        main(["tokenizer", str(documents), "--vocab-size", "500", "--out", str(out), "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["vocab_size"] == 500
    assert set(report["languages"]) == {"en", "zh"}
    arguments = ["--data", str(documents), "--out", str(tmp_path / "r"), "--steps", "2", *TINY]
    assert main(["pretrain", "--tokenizer", str(out), *arguments]) == 0
    assert (tmp_path / "r" / "tokenizer" / "tokenizer.json").read_text() == (
        out / "tokenizer.json"
    ).read_text()


def test_continuing_from_a_folder_keeps_its_family_and_tokenizer(run, documents, tmp_path):
    arguments = ["--data", str(documents), "--out", str(tmp_path / "r"), "--steps", "2"]
    arguments += shlex.split("--size nano --context 64 --batch 4 --threads 1 --dtype float32")
    assert main(["pretrain", "--from", str(run / "model"), *arguments]) == 0
    first = json.loads((run / "model" / "config.json").read_text())
    second = json.loads((tmp_path / "r" / "model" / "config.json").read_text())
    assert first == second


@pytest.mark.slow
def test_a_chat_answers_lines_from_a_pipe(run):
    done = subprocess.run(
        [sys.executable, "-m", "yantai", "chat", str(run / "model"), "--max-new-tokens", "4"],
        input="Hello\n\n/reset\n你好\n/exit\nnever\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2
    assert "a new conversation" in done.stderr


@pytest.mark.slow
def test_a_signal_saves_and_exits_with_seven(documents, tmp_path):
    import signal

    out = tmp_path / "run"
    command = [sys.executable, "-m", "yantai", "pretrain", "--data", str(documents)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--steps", "100000", *TINY],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7, err
    assert "error[E701]" in err
    assert (out / "model" / "config.json").is_file()
