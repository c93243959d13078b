from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pocketvlm.bundle.open import open_bundle, write_manifest
from pocketvlm.cli import COMMANDS, main
from pocketvlm.runtime import GenerationConfig, load
from tests.support.waiting import SECONDS, ended

REPOSITORY = Path(__file__).resolve().parents[2]
#: random weights say a variety of tokens only when they are sampled
SAMPLED = ("--temperature", "3", "--seed", "5", "--max-new-tokens", "12", "--threads", "1")
CONFIG = GenerationConfig(max_new_tokens=12, temperature=3.0, seed=5)


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)], input=stdin.encode())


@pytest.fixture(scope="module")
def bundle(tiny_bundles: dict[str, Path]) -> Path:
    return tiny_bundles["int4-g32"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "red.png"
    Image.new("RGB", (140, 70), (200, 30, 30)).save(path)
    return path


def test_a_prompt_is_answered_as_in_python(bundle: Path, image: Path) -> None:
    found = run(bundle, "--image", image, "--image", image, "--prompt", "What is it?", *SAMPLED)
    assert found.exit_code == 0, found.output
    with load(bundle, threads=1) as vlm:
        wanted = vlm.stream("What is it?", [image, image], CONFIG).read()
    assert wanted
    assert found.stdout == wanted + "\n"
    assert found.stderr == ""


def test_what_a_model_cannot_do_is_said_before_it_is_asked(bundle: Path, tmp_path: Path) -> None:
    """In a line that is fit to print, and not where the answer stands."""
    shutil.copytree(bundle, tmp_path / "told")
    manifest = open_bundle(bundle).manifest
    told = manifest.model.model_copy(update={"limits": "Reads drawn\npictures.\x1b[2J"})
    write_manifest(tmp_path / "told", manifest.model_copy(update={"format_version": 3, "model": told}))
    plain, found = (run(one, "--prompt", "What is it?", *SAMPLED) for one in (bundle, tmp_path / "told"))
    assert found.stdout == plain.stdout
    assert found.stderr.startswith("note: Reads drawn pictures.")
    assert found.stderr.rstrip("\n").isprintable()


def test_json_has_text_tokens_and_stats(bundle: Path, image: Path) -> None:
    found = run(bundle, "--image", image, "--prompt", "What is it?", "--json", *SAMPLED)
    answer = json.loads(found.stdout)
    assert found.stdout.count("\n") == 1
    with load(bundle, threads=1) as vlm:
        assert vlm.decode(answer["token_ids"]).rstrip("\ufffd") == answer["text"]
    stats = answer["stats"]
    assert (stats["generated_tokens"], stats["finish_reason"]) == (len(answer["token_ids"]), "length")
    assert stats["image_tokens"] == 3 * 25
    assert {"load_s", "preprocess_s", "encode_s", "prefill_tps", "decode_tps", "peak_rss_bytes"} <= stats.keys()


def test_stats_are_a_table_on_stderr(bundle: Path) -> None:
    found = run(bundle, "--prompt", "hi", "--stats", *SAMPLED)
    for phase in ("load", "preprocess", "encode images", "prefill", "decode", "first token after", "peak memory"):
        assert phase in found.stderr
    assert "prefill" not in found.stdout


def test_the_options_reach_the_generation(bundle: Path) -> None:
    def ids(*options: str) -> list[int]:
        tokens: list[int] = json.loads(run(bundle, "--prompt", "hi", "--json", "--threads", "1", *options).stdout)[
            "token_ids"
        ]
        return tokens

    greedy = ids("--max-new-tokens", "8")
    assert ids("--max-new-tokens", "8", "--temperature", "9", "--top-k", "1") == greedy
    assert ids("--max-new-tokens", "8", "--temperature", "9", "--top-p", "1e-9") == greedy
    hot = ids("--max-new-tokens", "8", "--temperature", "9")
    assert hot != greedy
    assert ids("--max-new-tokens", "8", "--temperature", "9", "--seed", "1") != hot
    assert ids("--max-new-tokens", "3", "--temperature", "9") == hot[:3]
    other = ids("--max-new-tokens", "8", "--logit-bias", f"{greedy[0]}=-100")
    assert greedy[0] not in other
    forced = ids("--max-new-tokens", "8", "--logit-bias", f"{other[0]}=100", "--logit-bias", f"{greedy[0]}=-99.5")
    assert forced == [other[0]] * 8
    assert len(set(ids("--max-new-tokens", "8", "--repetition-penalty", "1e30"))) == 8


def test_an_answer_has_the_form_that_is_asked_for(bundle: Path, image: Path, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text(json.dumps({"type": "array", "items": {"enum": ["a", 1]}, "minItems": 2, "maxItems": 2}))
    grammar.write_text('start: "total " /[0-9]{2}/')
    cases: list[tuple[list[str | Path], str]] = [
        (["--json-schema", schema], r'\[("a"|1),("a"|1)\]'),
        (["--regex", "[0-9]{2}[.][0-9]{2}"], r"\d\d\.\d\d"),
        (["--choice", "left", "--choice", "right"], "left|right"),
        (["--grammar", grammar], r"total \d\d"),
    ]
    for options, form in cases:
        found = run(bundle, "--prompt", "hi", "--image", image, *SAMPLED[:4], "--threads", "1", *options)
        assert found.exit_code == 0, found.output
        assert re.fullmatch(form, found.stdout.removesuffix("\n"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"type": "wat"}', "error: json_schema: Invalid type: wat"),
        ('{"type": "string", "minLength": 2, "maxLength": 1}', "error: json_schema: Unsatisfiable schema"),
        (None, "error: "),
        ("x" * (1 << 19), "error: "),
    ],
)
def test_a_schema_that_no_answer_can_meet_is_one_line(
    bundle: Path, tmp_path: Path, content: str | None, line: str
) -> None:
    schema = tmp_path / "schema.json"
    if content is not None:
        schema.write_text(content)
    found = run(bundle, "--prompt", "hi", "--json-schema", schema)
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr.startswith(line) and found.stderr.count("\n") == 1


def test_an_answer_ends_after_max_seconds(bundle: Path) -> None:
    found = run(bundle, "--prompt", "hi", "--json", "--max-seconds", "1e-9", *SAMPLED)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["stats"]["finish_reason"] == "deadline"


def test_the_vision_part_can_be_freed_after_each_image(bundle: Path, image: Path) -> None:
    arguments = ("--image", image, "--prompt", "What is it?", *SAMPLED)
    assert run(bundle, "--free-vision", *arguments).stdout == run(bundle, *arguments).stdout


def test_a_failed_allocation_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 1 GiB")

    monkeypatch.setattr("pocketvlm.runtime.vlm.PocketVlm.stream", failing)
    found = run(bundle, "--prompt", "hi")
    assert (found.exit_code, found.stderr) == (1, "error: not enough memory. Unable to allocate 1 GiB\n")


def test_a_bundle_over_the_memory_budget_is_refused_part_by_part(bundle: Path) -> None:
    found = run(bundle, "--prompt", "hi", "--memory-budget-mb", "100", *SAMPLED)
    assert found.exit_code == 1
    assert "KV cache" in found.stderr and "the memory budget is 100.0 MB" in found.stderr
    assert run(bundle, "--prompt", "hi", "--memory-budget-mb", "1000", *SAMPLED).exit_code == 0


def test_a_bias_outside_the_vocabulary_is_one_line(bundle: Path) -> None:
    found = run(bundle, "--prompt", "x", "--logit-bias", "123456789=1")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: logit_bias has token 123456789, the model's vocabulary has ")
    assert found.stderr.count("\n") == 1


def test_prepacked_weights_are_kept_and_answer_alike(bundle: Path, tmp_path: Path) -> None:
    wanted = run(bundle, "--prompt", "hi", *SAMPLED).stdout
    cache = tmp_path / "cache"
    for _ in range(2):
        found = run(bundle, "--prompt", "hi", "--prepacked-cache", cache, *SAMPLED)
        assert (found.exit_code, found.stdout, found.stderr) == (0, wanted, "")
        assert len(list(cache.iterdir())) == 1
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="loading without them"):
        assert run(bundle, "--prompt", "hi", "--prepacked-cache", tmp_path / "file" / "x", *SAMPLED).stdout == wanted
    assert run(bundle, "--prompt", "hi", "--prepacked-cache", tmp_path / "file", *SAMPLED).exit_code == 2


def answers(found: Result) -> list[list[int]]:
    """The tokens of each answer of a command with --json."""
    assert found.exit_code == 0, found.output
    return [json.loads(line)["token_ids"] for line in found.stdout.splitlines()]


def test_a_conversation_in_a_file_goes_on_with_each_command(bundle: Path, image: Path, tmp_path: Path) -> None:
    path, common = tmp_path / "conversation", (bundle, "--json", *SAMPLED)
    lines = f"/image {image}\nWhat is this?\nAnd this?\n/save {tmp_path / 'chat'}\nAnd now?\n"
    wanted = answers(run(*common, stdin=lines))
    resumed = (*common, "--conversation", path)
    found = answers(run(*resumed, "--image", image, "--prompt", "What is this?"))
    second = run(*resumed, "--prompt", "And this?")
    found += answers(second) + answers(run(*resumed, stdin="And now?\n"))
    assert found == wanted and len(wanted) == 3
    assert json.loads(second.stdout)["stats"]["reused_tokens"] > 0
    assert answers(run(*common, "--conversation", tmp_path / "chat", "--prompt", "And now?")) == wanted[2:]
    path.write_bytes(b"something else")
    refused = run(*resumed, "--prompt", "And?")
    assert refused.exit_code == 1 and "is not a file of this format" in refused.stderr
    assert path.read_bytes() == b"something else"


def test_what_prompts_begin_with_is_kept_in_a_directory(bundle: Path, tmp_path: Path) -> None:
    common = (bundle, "--json", *SAMPLED, "--prompt", "What is the total of all that is written in the table? " * 8)
    plain = answers(run(*common))
    for reused in (False, True):
        found = run(*common, "--prefix-cache", tmp_path / "kept")
        assert answers(found) == plain
        assert (json.loads(found.stdout)["stats"]["reused_tokens"] > 0) == reused


def test_a_stop_string_ends_the_answer(bundle: Path) -> None:
    whole = run(bundle, "--prompt", "hi", *SAMPLED).stdout[:-1]
    stop = whole[3:5]
    assert run(bundle, "--prompt", "hi", "--stop", stop, *SAMPLED).stdout[:-1] == whole[: whole.index(stop)]


def test_a_chat_over_a_pipe(bundle: Path, image: Path) -> None:
    lines = [
        "first question",
        "",
        f"/image {image}",
        "what is this?",
        "/help",
        "/reset",
        "first question",
        "/quit",
        "no",
    ]
    found = run(bundle, "--json", *SAMPLED, stdin="\n".join(lines))
    assert found.exit_code == 0, found.output
    first, second, third = map(json.loads, found.stdout.splitlines())
    assert first["stats"]["image_tokens"] == 0
    assert second["stats"]["image_tokens"] == 75
    assert second["stats"]["reused_tokens"] > 0
    assert third["token_ids"] == first["token_ids"]
    assert third["stats"]["reused_tokens"] == 0
    assert "/reset" in found.stderr


def test_a_chat_begins_with_the_images_of_the_command_line(bundle: Path, image: Path) -> None:
    found = run(bundle, "--image", image, "--json", *SAMPLED, stdin="what is this?\n")
    assert json.loads(found.stdout)["stats"]["image_tokens"] == 75


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ("/image nowhere.png", "error: nowhere.png: no such file"),
        ("/dance", "error: '/dance' is not a command"),
        ("/image", "error: '/image' is not a command, or wants another argument"),
        ("7" * 3000, "fit into this bundle's KV cache"),
    ],
)
def test_an_error_in_a_script_ends_it(bundle: Path, lines: str, line: str) -> None:
    found = run(bundle, *SAMPLED, stdin=f"{lines}\nhello\n")
    assert found.exit_code == 1
    assert line in found.stderr
    assert found.stderr.count("\n") == 1


def test_errors_are_one_line_and_status_1(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    calls: list[list[str | Path]] = [
        [tmp_path / "none", "--prompt", "x"],
        [bundle, "--prompt", "x", "--image", broken],
        [bundle, "--prompt", "x", "--image", tmp_path],
        [bundle, "--prompt", "x" * 5000],
    ]
    for arguments in calls:
        found = run(*arguments)
        assert found.exit_code == 1
        assert found.stderr.startswith("error: ")
        assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--temperature", "inf"],
        ["--top-p", "0"],
        ["--top-p", "nan"],
        ["--top-k", "-1"],
        ["--seed", "-1"],
        ["--seed", str(2**64)],
        ["--max-new-tokens", "0"],
        ["--threads", "0"],
        ["--stop", ""],
        ["--repetition-penalty", "0"],
        ["--repetition-penalty", "nan"],
        ["--repetition-penalty", "inf"],
        ["--logit-bias", "5"],
        ["--logit-bias", "=1"],
        ["--logit-bias", "-5=1"],
        ["--logit-bias", "1_0=1"],
        ["--logit-bias", "9" * 5000 + "=1"],
        ["--logit-bias", "5=much"],
        ["--logit-bias", "5=nan"],
        ["--logit-bias", "5=101"],
        ["--logit-bias", "5=1", "--logit-bias", "5=2"],
        ["--choice", ""],
        ["--choice", "a", "--regex", "a"],
        ["--json-schema", __file__],
    ],
)
def test_usage_errors_are_status_2(bundle: Path, options: list[str]) -> None:
    found = run(bundle, "--prompt", "x", *options)
    assert found.exit_code == 2, found.output
    assert "Error: " in found.stderr


def started(*arguments: str | Path, stdin: int = subprocess.DEVNULL) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "pocketvlm", "run", *map(str, arguments)]
    return ended(
        subprocess.Popen(
            command, cwd=REPOSITORY, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    )


def test_text_is_streamed_and_control_c_ends_the_answer(tiny_bundles: dict[str, Path]) -> None:
    options = ("--prompt", "hi", "--temperature", "9", "--max-new-tokens", "100000", "--threads", "1")
    with started(tiny_bundles["fp32"], *options) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)  # the first characters come before the end
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    # A short KV cache may have been faster than the signal.
    assert process.returncode in (130, 0), errors
    assert b"Traceback" not in errors


def test_a_chat_on_a_terminal_outlives_errors_and_ends_with_control_d(bundle: Path) -> None:
    terminal, line = pty.openpty()
    with started(bundle, *SAMPLED, stdin=line) as process, open(terminal, "wb", buffering=0) as typed:  # noqa: PTH123
        os.close(line)
        typed.write(b"/image nowhere.png\nhello\n\x04")
        output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert b"error: nowhere.png: no such file" in errors
    assert b"/help lists the commands" in errors
    assert output.strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_no_markup_in_it(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert "\\" not in shown.output and "``" not in shown.output
