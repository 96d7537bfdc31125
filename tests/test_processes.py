"""Scripts that start processes: right with a guard under every start method, and soon ended without one."""

import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import pytest

from healnet import _processes

ROOT = Path(__file__).parents[1]
METHODS = ["fork", "spawn", "forkserver"]
if sys.platform != "linux":
    METHODS = ["spawn"]
PATIENCE = 120  # seconds, on a machine that does other work too
LINES = 'if __name__ == "__main__":\n    '

# Each prepares its files once, when the first process runs it, and prints what it found.
SCRIPTS = {
    "extract": """
        import torch
        from PIL import Image
        from healnet.slides import extract_features

        def encoder(tiles):
            return tiles.mean(dim=(2, 3))

        def prepare():
            picture = Image.new("RGB", (300, 200), (243, 242, 244))
            picture.paste((150, 80, 160), (0, 0, 256, 192))
            picture.save("a.png")

        def work():
            (row,) = extract_features(
                ["a.png"], encoder, "features", size=64, mpp=1.0, slide_mpp=1.0, num_workers=1, progress=False
            )
            print(row.tiles, row.error)
    """,
    "loader": """
        import torch
        from torch.utils.data import DataLoader
        from healnet.data import CohortDataset
        from healnet.datasets import load_breast_cancer

        def prepare():
            pass

        def work():
            loader = DataLoader(CohortDataset(load_breast_cancer()), batch_size=99, num_workers=1)
            print([len(batch.patients) for batch in loader])
    """,
    "tiles": """
        from PIL import Image
        from torch.utils.data import DataLoader
        from healnet.slides import Slide

        def prepare():
            Image.new("RGB", (200, 200), (150, 80, 160)).save("b.png")

        def work():
            # More coordinates than a pipe holds.
            slide = Slide("b.png", mpp=1.0)
            tiles = slide.tiles(2, mpp=1.0, tissue_fraction=0.0)
            print(len(tiles), len(list(DataLoader(tiles, 5000, num_workers=1))))
    """,
    "patches": """
        import h5py
        import numpy as np
        import pandas as pd
        from healnet.data import Cohort

        NAMES = [f"p{i}" for i in range(70)]

        def prepare():
            for name in NAMES:
                with h5py.File(f"{name}.h5", "w") as file:
                    file["features"] = np.ones((2, 4), "f4")
                    file["coords"] = np.arange(4).reshape(2, 2)

        def work():
            table = pd.DataFrame({"x": np.arange(70.0) % 7}, index=NAMES)
            print(Cohort({"a": table}).with_patches(".", patient_of=str).widths)
    """,
    "jobs": """
        import sys
        from pathlib import Path

        sys.path.append(EXAMPLES)
        import jobs

        def job(name):
            return [{"name": name[0]}]

        def prepare():
            pass

        def work():
            rows = jobs.run([("a",), ("b",)], job, Path("jobs"), 2, (0, 1))
            print(rows["name"].tolist())
    """,
}
FOUND = {
    "extract": "19 \n",
    "loader": "[99, 99]\n",
    "tiles": "10000 2\n",
    "patches": "{'a': 1, 'slide': 4}\n",
    "jobs": "['a', 'b']\n",
}


def run(folder, name, method, guard):
    """Run the script: its exit status, output, error output and seconds."""
    head = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    body = textwrap.dedent(SCRIPTS[name]).replace("EXAMPLES", repr(str(ROOT / "examples")))
    start = 'if __name__ == "__main__":\n    prepare()\n    work()\n'
    # Files are made by the first process alone; what is called without a guard is the work.
    bare = (
        'import os\nif not os.environ.get("PREPARED"):\n    prepare()\nos.environ["PREPARED"] = "1"\nwork()\n'
    )
    path = folder / "script.py"
    path.write_text(head + body + (start if guard else bare))
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr, time.perf_counter() - begin


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


# The rest is slow: each process imports PyTorch.
QUICK = {("extract", "spawn")}
EVERY = [
    pytest.param(name, method, marks=() if (name, method) in QUICK else pytest.mark.slow)
    for name in SCRIPTS
    for method in METHODS
]


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_a_script_with_the_guard_works(tmp_path, name, method):
    code, printed, errors, _ = run(tmp_path, name, method, guard=True)
    assert (code, printed) == (0, FOUND[name]), errors


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_a_script_without_it_works_or_says_what_to_add(tmp_path, name, method):
    code, printed, errors, seconds = run(tmp_path, name, method, guard=False)
    # Jobs are spawned whatever the method; files are opened by threads.
    if name == "patches" or (method == "fork" and name != "jobs"):
        assert (code, printed) == (0, FOUND[name]), errors
        return
    assert code == 1, errors
    assert seconds < PATIENCE / 2
    if name == "extract":
        call = "extract_features"
        child, parent = re.findall(r"^healnet\._processes\.ProcessStartError: (.*)$", errors, re.MULTILINE)
        assert child.startswith(f"{call} was called while a worker process of it started. ")
        assert parent.startswith(
            f"a worker process of {call} ended before it began (exit code 1), see its own error. "
        )
        assert errors.count(f"{LINES}{call}(...)\n") == 2
    if name == "jobs":
        assert f"{LINES}main()\n" in errors
        assert (
            "RuntimeError: a worker process ended before it began (exit code 1), see its own error." in errors
        )
    if name in {"loader", "tiles"}:
        assert_a_loader_says_what_to_add(errors)


def assert_a_loader_says_what_to_add(errors):
    assert "if __name__ == '__main__':" in errors  # Python's own, of the child
    assert "ProcessStartError: a worker process of DataLoader ended before it began (exit code 1)" in errors
    assert f"{LINES}DataLoader(...)\n" in errors


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=pytest.mark.slow) for method in METHODS if method != "fork"]
)
def test_a_guard_elsewhere_and_a_start_method_of_the_loader_alone_hide_nothing(tmp_path, method):
    # More patients than a pipe holds.
    body = f"""
        import numpy as np
        import pandas as pd
        from torch.utils.data import DataLoader
        from healnet.data import Cohort, CohortDataset

        table = pd.DataFrame(np.arange(20000.0).reshape(400, 50) % 7, index=map(str, range(400)))
        dataset = CohortDataset(Cohort({{"a": table.rename(columns=str)}}))
        list(DataLoader(dataset, 200, num_workers=1, multiprocessing_context={method!r}))
        if __name__ == "__main__":
            print("done")
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert_a_loader_says_what_to_add(done.stderr)


GUARDS = {
    "if __name__ == '__main__':\n    ask()\n": True,
    "def main():\n    ask()\n\nif '__main__' == __name__ and True:\n    pass\n    main()\n": True,
    "if __name__ == '__main__':\n    thread = Thread(target=ask)\n    thread.start()\n    thread.join()\n": True,
    "ask()\n": False,
    "ask()\nif __name__ == '__main__':\n    pass\n": False,
    "if __name__ == '__main__':\n    pass\nask()\n": False,
    "if __name__ != '__main__':\n    pass\nelse:\n    ask()\n": False,  # a process is tried
    "# if __name__ == '__main__':\nif True:\n    ask()\n": False,
}


@pytest.mark.parametrize(("script", "guarded"), GUARDS.items())
def test_a_guard_counts_where_the_script_stands_in_it(tmp_path, monkeypatch, script, guarded):
    answers = []
    main = types.ModuleType("__main__")
    path = tmp_path / "script.py"
    path.write_text(script)
    main.__file__ = str(path)
    main.ask = lambda: answers.append(_processes._is_guarded())
    main.Thread = threading.Thread
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile(script, str(path), "exec"), vars(main))
    assert answers == [guarded]


def test_a_notebook_has_no_script_and_a_program_no_source(tmp_path, monkeypatch):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert _processes._is_guarded()
    main.__file__ = str(tmp_path / "program")
    (tmp_path / "program").write_bytes(b"\0\1")
    assert not _processes._is_guarded()


WITHOUT_POSIX = """
import os, signal, sys

for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "getuid", "geteuid", "sched_getaffinity", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGALRM", "SIGKILL"):
    if hasattr(signal, name):
        delattr(signal, name)
"""


@pytest.mark.slow
def test_extraction_needs_nothing_that_posix_systems_alone_have(tmp_path):
    body = textwrap.dedent(SCRIPTS["extract"])
    spawn = "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)\n"
    every = "import pkgutil, importlib, healnet\n" + (
        "for module in pkgutil.walk_packages(healnet.__path__, 'healnet.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    guarded = f'if __name__ == "__main__":\n{textwrap.indent(every, "    ")}    prepare()\n    work()\n'
    path = tmp_path / "script.py"
    path.write_text(WITHOUT_POSIX + spawn + body + guarded)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, FOUND["extract"]), done.stderr
