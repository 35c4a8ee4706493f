"""Sphinx configuration. A build needs no network: links to other projects' pages are made on Read the Docs only."""

import os
import shutil
import sys
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for results.py and what it imports

import results  # noqa: E402

project = "mmopt"
copyright = "2026, the mmopt developers"
author = "the mmopt developers"
release = version = installed("mmopt")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
exclude_patterns = ["_build", "generated/include"]
templates_path = ["_templates"]
nb_execution_mode = "off"  # the tests run the code of the pages
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autosummary_generate = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = False

html_theme = "sphinx_book_theme"
html_title = "mmopt"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has the search field
    "use_download_button": False,
    "use_fullscreen_button": False,
}

nitpicky = True
# names of other packages have no page to link to without their inventories
OTHERS = "torch|numpy|np|pandas|pd|scipy|anndata|mudata|muon|scanpy|scvi|lightning|matplotlib"
nitpick_ignore_regex = [
    ("py:.*", rf"({OTHERS})(\..*)?"),
    ("py:.*", r"(collections|typing|pathlib|contextlib|os)(\..*)?"),
]
nitpick_ignore = [
    (kind, name)
    for name in (
        "Tensor",
        "Optimizer",
        "Figure",
        "Axes",
        "ndarray",
        "Params",
        "LossFn",
        "Normalization",
        "GCXS",
    )
    for kind in ("py:class", "py:data", "py:obj")
]
if os.environ.get("READTHEDOCS") == "True":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        name: (url, None)
        for name, url in {
            "anndata": "https://anndata.readthedocs.io/en/stable/",
            "lightning": "https://lightning.ai/docs/pytorch/stable/",
            "matplotlib": "https://matplotlib.org/stable/",
            "mudata": "https://mudata.readthedocs.io/stable/",
            "numpy": "https://numpy.org/doc/stable/",
            "pandas": "https://pandas.pydata.org/docs/",
            "python": "https://docs.python.org/3/",
            "scanpy": "https://scanpy.readthedocs.io/en/stable/",
            "scvi": "https://docs.scvi-tools.org/en/stable/",
            "torch": "https://docs.pytorch.org/docs/stable/",
        }.items()
    }

PACKAGES = ("curvature", "datasets", "metrics", "models", "optim", "pl", "pp", "tl")


def public_names() -> dict[str, str]:
    """Where a class or function is defined, and its bare name, -> the name it is documented under."""
    names = {"summarise": "mmopt.tl._optimizer_summary.summarise"}
    for package in PACKAGES:
        module = import_module(f"mmopt.{package}")
        for name in module.__all__:
            member = getattr(module, name)
            if callable(member):
                public = f"mmopt.{package}.{name}"
                names |= {f"{member.__module__}.{member.__qualname__}": public, name: public}
    return names


def skip_foreign(app, what, name, member, skip, options):
    """Leave out what a class inherits from other packages."""
    function = getattr(member, "fget", member)
    if callable(function) and not (getattr(function, "__module__", None) or "").startswith("mmopt"):
        return True
    return None


def resolve_private(app, env, node, contnode):
    """Link annotations, which name the module of the definition, and bare names in summaries to the public page."""
    public = app.mmopt_names.get(node.get("reftarget"))
    if public is None:
        return None
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], public, node, contnode
    )


def setup(app):
    """Write what is made from the benchmarks' results, before any page is read."""
    app.mmopt_names = public_names()
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("missing-reference", resolve_private)
    results.write(HERE.parent / "benchmarks", HERE / "generated")
    shutil.rmtree(HERE / "tutorials", ignore_errors=True)
    (HERE / "tutorials").mkdir()
    for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):  # executed there: see tutorials/execute.py
        shutil.copy(notebook, HERE / "tutorials")
