"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_python_blocks_run_one_after_the_other(capsys):
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    space = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, str(README), "exec"), space)
    score = float(capsys.readouterr().out.split()[0])
    assert 0.3 < score <= 1
    assert space["trace"]["rna"].shape == (2, 2, 198)
    assert space["trace"]["rna"].sum(-1).flatten().tolist() == pytest.approx([1] * 4)


def test_the_commands_name_files_that_exist():
    root = README.parent
    for command in re.findall(
        r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        for path in re.findall(r"\b(?:examples|tests)/[\w./]+", command):
            assert (root / path).exists(), path
