"""Sphinx's settings: `make docs` builds these pages into `site/`, without the network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from pygments.lexers.shell import BashLexer  # noqa: E402 - the path is set above

from brsolver import __version__  # noqa: E402 - the path is set above

project = "brsolver"
author = "The brsolver developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "public_names",
    "command_line",
    "mathml",
]
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = "brsolver"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # where kernels are compiled for the first time, on a busy machine
nb_merge_streams = True

# Types stand in the numpydoc sections, with shapes and units; signatures repeat none of them.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    # scikit-learn adds these to estimators, with references into its own documentation.
    "exclude-members": "set_fit_request, set_predict_request, set_score_request",
}
autosummary_generate = False
numpydoc_show_class_members = False
default_role = "py:obj"
html_math_renderer = "mathml"


def setup(app):
    """Draw console blocks as shell: they hold commands without prompts or output."""
    app.add_lexer("console", BashLexer)
