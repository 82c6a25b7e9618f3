"""Converting from a repository, against a real HTTP server on loopback that speaks the hub's endpoints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from darwin_neg_cpp.convert import convert, write
from darwin_neg_cpp.neg import files as neg_files
from oracles import tiny_tokenizer
from oracles.hub_server import COMMIT, Hub

REPO = "some-lab/Tiny-1B-NEG"
NOT_WANTED = ("vision.mmproj-Q8_0.gguf", "pytorch_model.bin", "picture.png", "other.safetensors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("hub")
    folder = tiny_tokenizer.write_checkpoint(base / "Tiny-1B-NEG", tiny_tokenizer.write(base / "tokenizer"), card=True)
    for name in NOT_WANTED:
        (folder / name).write_bytes(b"not wanted")
    return folder


@pytest.fixture
def hub(checkpoint):
    with Hub(REPO, checkpoint) as running:
        yield running


def run(hub: Hub, out: Path, *more: str, home: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    variables |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home or out.parent / "hf"),
        "DARWIN_NEG_CACHE": str(home or out.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "HF_HUB_ETAG_TIMEOUT": "2",
        **env,
    }
    command = [sys.executable, str(ROOT / "convert" / "convert_to_gguf.py"), REPO, "-o", str(out), "--outtype", "bf16"]
    return subprocess.run([*command, *more], env=variables, capture_output=True, text=True, check=False, timeout=120)


def refused(result: subprocess.CompletedProcess[str], out: Path, code: int | None = None) -> str:
    assert result.returncode in ((1, 2) if code is None else (code,)), result.stderr
    # a download says on standard error what it fetches, before it fails
    *before, line = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("darwin-neg: error:") and REPO in line
    assert not [line for line in before if not line.startswith(("Fetching", "Downloading"))], result.stderr
    assert "hf_" not in result.stdout + result.stderr
    assert not out.exists()
    return line


def test_a_repository_gives_the_file_that_its_folder_gives(hub, checkpoint, tmp_path):
    result = run(hub, tmp_path / "hub.gguf")
    assert result.returncode == 0, result.stderr
    write.write(convert.plan(convert.Source(checkpoint, REPO), outtype="bf16"), tmp_path / "folder.gguf")
    assert (tmp_path / "hub.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()
    asked = {path.rpartition("/")[2] for _, path, _, _ in hub.requests}
    assert not asked & set(NOT_WANTED)
    assert "neg_modules.safetensors" in asked


def test_a_cut_download_is_resumed_where_it_stopped(tmp_path):
    # huggingface_hub keeps whole pieces of 10 MB of what it has got
    folder = tiny_tokenizer.write_checkpoint(
        tmp_path / "large", tiny_tokenizer.write(tmp_path / "tokenizer"), n_ff=40_000
    )
    shard = "model-00001-of-00002.safetensors"
    assert (folder / shard).stat().st_size > 30 << 20
    with Hub(REPO, folder, cut={shard: 1}) as hub:
        out = tmp_path / "out.gguf"
        first = run(hub, out)
        if first.returncode != 0:
            refused(first, out)
            assert run(hub, out).returncode == 0
        ranges = hub.asked_for(shard)
        assert len(ranges) == 2 and ranges[0] == "" and ranges[1].startswith("bytes=")
        assert int(ranges[1].removeprefix("bytes=").rstrip("-")) >= 10 << 20, "it began again from the start"
        assert len(hub.asked_for("model-00002-of-00002.safetensors")) == 1
    write.write(convert.plan(convert.Source(folder, REPO), outtype="bf16"), tmp_path / "folder.gguf")
    assert out.read_bytes() == (tmp_path / "folder.gguf").read_bytes()


def test_a_download_that_never_ends_is_one_line_and_not_taken_for_whole(checkpoint, tmp_path):
    with Hub(REPO, checkpoint, cut={"neg_modules.safetensors": 999}) as hub:
        out = tmp_path / "out.gguf"
        assert "cannot be downloaded" in refused(run(hub, out), out)
        # all else may be there by now, and would make a file without the head
        refused(run(hub, out, HF_HUB_OFFLINE="1"), out)
        hub.cut.clear()
        assert run(hub, out).returncode == 0


def test_what_is_there_is_used_without_network(hub, tmp_path):
    assert run(hub, tmp_path / "a.gguf").returncode == 0
    hub.__exit__()
    try:
        for env in ({}, {"HF_HUB_OFFLINE": "1"}):
            out = tmp_path / f"b{len(env)}.gguf"
            result = run(hub, out, home=tmp_path / "hf", **env)
            assert result.returncode == 0, result.stderr
            assert out.read_bytes() == (tmp_path / "a.gguf").read_bytes()
        assert "cannot be downloaded" in refused(
            run(hub, tmp_path / "c.gguf", home=tmp_path / "empty"), tmp_path / "c.gguf"
        )
    finally:
        hub.__enter__()


def test_a_token_is_taken_from_the_environment_and_never_shown(hub, tmp_path):
    hub.token = "hf_secretsecret"
    said = refused(run(hub, tmp_path / "a.gguf"), tmp_path / "a.gguf", 2)
    assert "no such repository, or it is private" in said and "HF_TOKEN" in said
    said = refused(run(hub, tmp_path / "b.gguf", HF_TOKEN="hf_wrong"), tmp_path / "b.gguf", 2)
    assert "access token is not accepted" in said
    result = run(hub, tmp_path / "c.gguf", HF_TOKEN=hub.token)
    assert result.returncode == 0, result.stderr
    assert "hf_secret" not in result.stdout + result.stderr
    assert any(bearer == hub.token for _, _, _, bearer in hub.requests)


def test_gated_and_missing_repositories_and_revisions_are_told_apart(hub, tmp_path, checkpoint):
    out = tmp_path / "out.gguf"
    hub.gated = True
    said = refused(run(hub, out, home=tmp_path / "1"), out, 2)
    assert "access to it must be granted" in said and f"{hub.url}/{REPO}" in said
    hub.gated = False
    said = refused(run(hub, out, "--revision", "nope", home=tmp_path / "2"), out, 2)
    assert "no such revision" in said and "nope" in said
    hub.repo = "some-lab/other"
    said = refused(run(hub, out, home=tmp_path / "3"), out, 2)
    assert "no such repository" in said and "private" not in said
    # nobody there is another matter than being refused
    hub.__exit__()
    try:
        said = refused(run(hub, out, home=tmp_path / "4"), out, 1)
        assert "check the name, the network" in said
    finally:
        hub.__enter__()


def test_using_an_earlier_download_of_what_is_now_refused_is_said(hub, tmp_path):
    home = tmp_path / "hf"
    assert run(hub, tmp_path / "a.gguf", home=home).returncode == 0
    hub.repo = "some-lab/moved"
    result = run(hub, tmp_path / "b.gguf", home=home)
    assert result.returncode == 0, result.stderr
    (note,) = [line for line in result.stderr.splitlines() if line.startswith("darwin-neg: note: ")]
    assert "no such repository" in note and "an earlier download of it is used" in note
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    # asked for to do without the network, it has nothing to explain
    result = run(hub, tmp_path / "c.gguf", home=home, HF_HUB_OFFLINE="1")
    assert result.returncode == 0 and "note" not in result.stderr


# --- what needs no weights downloads none


def shard_requests(hub: Hub) -> list[str]:
    return [
        r for name in ("model-00001-of-00002", "model-00002-of-00002") for r in hub.asked_for(f"{name}.safetensors")
    ]


def test_a_dry_run_of_a_repository_fetches_headers_alone(tmp_path):
    folder = tiny_tokenizer.write_checkpoint(
        tmp_path / "large", tiny_tokenizer.write(tmp_path / "tokenizer"), n_ff=40_000
    )
    with Hub(REPO, folder) as hub:
        result = run(hub, tmp_path / "out.gguf", "--dry-run")
        assert result.returncode == 0, result.stderr
        ranges = shard_requests(hub)
        assert ranges and all(ranges), "a shard was fetched as a whole"
        sizes = [1 + int(last) - int(first) for first, last in (r.removeprefix("bytes=").split("-") for r in ranges)]
        assert sum(sizes) < 3 << 20 < sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 10
        assert "would be written" in result.stdout and "neg.proj_down.w" in result.stdout
        expected = write_dry_run(folder, tmp_path / "out.gguf")
        assert result.stdout == expected
        # and what follows is whole, also without network
        refused(run(hub, tmp_path / "out.gguf", HF_HUB_OFFLINE="1"), tmp_path / "out.gguf")
        assert run(hub, tmp_path / "out.gguf").returncode == 0
        before = len(shard_requests(hub))
        assert run(hub, tmp_path / "b.gguf", "--dry-run").returncode == 0
        assert len(shard_requests(hub)) == before, "what is there is used"


def write_dry_run(folder: Path, out: Path) -> str:
    from darwin_neg_cpp.cli.convert import dry_run

    return dry_run(convert.plan(convert.Source(folder, REPO), outtype="bf16"), out, "bf16", None) + "\n"


def test_a_side_car_alone_downloads_the_head_and_a_norm(hub, checkpoint, tmp_path):
    side_car, other = tmp_path / "head.gguf", tmp_path / "other.gguf"
    command = ["--side-car-only", "--side-car", str(side_car)]
    result = run(hub, tmp_path / "out.gguf", *command)
    assert result.returncode == 0, result.stderr
    assert all(shard_requests(hub))
    convert.write_side_car(convert.plan(convert.Source(checkpoint, REPO)), other)
    assert side_car.read_bytes() == other.read_bytes(), "bound to the same backbone"


def test_an_outline_that_does_not_fit_together_names_the_repository(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with Hub(REPO, folder) as hub:
        said = refused(run(hub, tmp_path / "out.gguf", "--dry-run"), tmp_path / "out.gguf", 2)
    assert f"{REPO}/{path.name}: " in said and "outline" not in said


def test_the_revision_is_honoured(hub, tmp_path):
    assert run(hub, tmp_path / "out.gguf", "--revision", COMMIT).returncode == 0
    assert any("/api/" in path and path.endswith(COMMIT) for _, path, _, _ in hub.requests)
    assert not any("/main" in path for _, path, _, _ in hub.requests)


def test_from_pretrained_converts_once_and_keeps_the_file(hub, tmp_path):
    code = (
        "from darwin_neg_cpp import DarwinNEG\n"
        f"llm = DarwinNEG.from_pretrained('{REPO}', quant='q8_0', n_ctx=64, n_parallel=1)\n"
        "print(llm.path, llm.neg['top_k'], llm.generate('the', max_tokens=2, ignore_eos=True).neg.entropy.shape)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"DARWIN_NEG_CACHE": str(tmp_path / "cache")}
    said = []
    # the third time there is no network, and the repository has more files than were downloaded
    for offline in ("", "", "1"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        said.append(result.stdout)
    (made,) = (tmp_path / "cache" / "converted").rglob("*.gguf")
    assert len(set(said)) == 1 and said[0].split()[0] == str(made) and said[0].split()[1:] == ["20", "(2,)"]
    assert len(hub.asked_for("model-00001-of-00002.safetensors")) == 1


def test_from_pretrained_refuses_a_type_before_it_downloads(hub, tmp_path):
    for quant, word in (("q9_k", "outtype must be"), ("iq2_xs", "importance matrix")):
        code = f"from darwin_neg_cpp import DarwinNEG; DarwinNEG.from_pretrained({REPO!r}, quant={quant!r})"
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1 and word in result.stderr.splitlines()[-1]
    assert not shard_requests(hub)


def test_from_pretrained_takes_a_gguf_and_the_side_car_beside_it(tiny_qwen, tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tiny-F32.gguf").symlink_to(tiny_qwen.base)
    neg_files.write_side_car(
        tiny_qwen.checkpoint / "neg_modules.safetensors", tiny_qwen.base, folder / "tiny-F32.neg.gguf"
    )
    (folder / "tiny-mmproj-Q8_0.gguf").write_bytes(b"not wanted")
    code = (
        "from darwin_neg_cpp import DarwinNEG\n"
        f"llm = DarwinNEG.from_pretrained('{REPO}', quant='f32', n_ctx=64, n_parallel=1)\n"
        "print(llm.neg['origin'], llm.generate('the', max_tokens=2, ignore_eos=True).neg.entropy.shape)\n"
    )
    with Hub(REPO, folder) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        for offline in ("", "1"):
            result = subprocess.run(
                [sys.executable, "-c", code],
                env={**environment, "HF_HUB_OFFLINE": offline},
                capture_output=True,
                text=True,
                check=False,
            )
            assert result.returncode == 0, result.stderr
            assert result.stdout.split() == ["side-car", "(2,)"]
        assert not hub.asked_for("tiny-mmproj-Q8_0.gguf")
