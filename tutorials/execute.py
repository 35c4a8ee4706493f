"""Run the tutorials anew and keep their outputs: ``python tutorials/execute.py [NAME ...]``.

The text of a tutorial is its Markdown file; the notebook beside it is made here and is what the documentation shows.
Takes a minute or less for each.
"""

import base64
import io
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).parent
# where a warning comes from differs by machine; of other streams (progress, other libraries) nothing is kept
OWN_WARNING = re.compile(r"^\S*ipykernel\S*: (\w*Warning: .*)$", re.M)

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def source(name: str) -> nbformat.NotebookNode:
    """Return the notebook that a Markdown file stands for, without outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.md")
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "jupytext": {"formats": "ipynb,md:myst"}})
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs from run to run, or from machine to machine, for no reason of ours."""
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.get("name") == "stderr":
                said = list(dict.fromkeys(OWN_WARNING.findall(output.text)))
                if not said:
                    continue
                output.text = "\n".join(said) + "\n"
            if "image/png" in output.get("data", {}):
                output.data |= {"text/plain": "<figure>", "image/png": smaller(output.data["image/png"])}
            if "text" in output:
                output.text = ANSI.sub("", output.text)
            kept.append(output)
        cell.outputs = kept


def smaller(picture: str) -> str:
    """Return a picture in 128 colours: a third of the size, and no difference to the eye."""
    made = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(made, "png", optimize=True)
    return base64.b64encode(made.getvalue()).decode()


def main(names: list[str]) -> None:
    for name in names or sorted(page.stem for page in FOLDER.glob("*.md")):
        notebook = source(name)
        with TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
        tidy(notebook)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
