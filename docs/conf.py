from importlib.metadata import version as installed_version

project = "schnetpack-tpainn"
author = "The schnetpack-tpainn developers"
copyright = "2026, the schnetpack-tpainn developers"
version = release = installed_version("schnetpack-tpainn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
html_theme = "furo"
html_title = "schnetpack-tpainn"
exclude_patterns = ["_build"]
