"""The documentation site: ``make docs`` builds it into ``build/site``."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
(EXAMPLE,) = (ROOT / "reports" / "example").glob("*Z")

project = "ptyint"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "ptyint"
html_copy_source = False
html_show_copyright = False
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings name the types
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False


MENDED = {
    'role="heading"': 'role="heading" aria-level="2"',
    '<aside class="sidebar-drawer"': '<aside aria-label="All pages" class="sidebar-drawer"',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    "<pre>": '<pre tabindex="0">',
}
"""What the theme leaves out for those who listen to a page, or scroll it with keys."""


def finish(app: Sphinx, error: Exception | None) -> None:
    """Mend the pages, and put the finished run beside them, as it is."""
    if error is None:
        for page in Path(app.outdir).glob("**/*.html"):
            text = page.read_text(encoding="utf-8")
            for old, new in MENDED.items():
                text = text.replace(new, old).replace(old, new)
            page.write_text(text, encoding="utf-8")
        shutil.copytree(EXAMPLE, Path(app.outdir, "example"), dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Have that done at the end."""
    app.connect("build-finished", finish)
