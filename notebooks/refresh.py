"""Run the notebooks from top to bottom and keep what they show.

python notebooks/refresh.py [NAME …]

Outputs are written back into each notebook, with pictures of at most 256 colours, and without what
differs from run to run (times, counts, ids). The first cell of each is its Colab badge, made from
the repository in pyproject.toml.
"""

import argparse
import base64
import io
import time
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PROJECT["tool"]["trpo-jax"]["repository"]
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
INSTALL = """\
import sys

if "google.colab" in sys.modules:
    %pip install --quiet "trpo-jax[all-envs,export] @ git+{repository}\""""


def badge(name: str, repository: str = REPOSITORY) -> str:
    """The badge of a notebook."""
    path = f"{repository.removeprefix('https://github.com/')}/blob/main/notebooks/{name}.ipynb"
    return f"{BADGE}(https://colab.research.google.com/github/{path})"


def run(path: Path) -> nbformat.NotebookNode:
    """A notebook, executed."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, resources=place, coalesce_streams=True).execute()
    return notebook


def tidy(notebook: nbformat.NotebookNode, name: str) -> None:
    """Keep only what is worth a commit, and set the badge."""
    notebook.cells[0].source = badge(name)
    notebook.cells[1].source = INSTALL.format(repository=REPOSITORY)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{name.replace('_', '-')}-{number}", {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for output in cell.outputs:
                _tidy_output(output)
    notebook.cells[1].metadata = {"tags": ["remove-cell"]}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def _tidy_output(output: nbformat.NotebookNode) -> None:
    if "execution_count" in output:
        output.execution_count = None
    if "metadata" in output:
        output.metadata = {}
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("text/plain", None)
        data["image/png"] = _smaller(data["image/png"])


def _smaller(png: str) -> str:
    """The same picture with 256 colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Run and write the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    for name in parser.parse_args().names or known:
        path, start = HERE / f"{name}.ipynb", time.perf_counter()
        notebook = run(path)
        tidy(notebook, name)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1024
        print(f"{name}: {time.perf_counter() - start:.0f} s, {size:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
