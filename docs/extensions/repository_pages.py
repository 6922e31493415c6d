"""Pages outside ``docs/`` join the site, and links that leave ``docs/`` lead to them.

A link is written for the repository, where a reader of the code host finds the file. For the site it is led to the copy
that ``mirror.py`` made, wherever the link stands: in a page of ``docs/``, in a copy, or in a page that is included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from mirror import FOLDER, Mirror, in_docs, in_repository, resolved
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class LeadInside(SphinxTransform):
    """Leads relative links and pictures of one page to where they are in the site; others are left as they are."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Change the tree of the page."""
        docs = Path(self.env.srcdir)
        for image in self.document.findall(nodes.image):
            uri = image["uri"]
            if ":" not in uri and not uri.startswith("/"):
                found = in_docs(docs, resolved(self._page(image, docs), unquote(uri)))
                if found and found[0] == "file":
                    image["uri"] = found[1]
        for kind in (addnodes.pending_xref, addnodes.download_reference):
            for link in list(self.document.findall(kind)):
                if link.get("reftype") == "myst":
                    self._lead(link, docs)

    def _page(self, node: nodes.Element, docs: Path) -> str:
        """The path in the repository of the page that a node was written in, also where that was included."""
        source = Path(node.source) if node.source else docs
        if not (source.is_file() and source.is_relative_to(docs)):
            source = Path(self.env.doc2path(self.env.docname))
        return in_repository(source.relative_to(docs).as_posix())

    def _lead(self, link: nodes.Element, docs: Path) -> None:
        """Replace one link that leads to a page or a file of the site by another way."""
        target, _, fragment = str(link["reftarget"]).partition("#")
        if link.get("refdomain") == "doc":  # a Markdown file that is there; one outside of docs goes by its full path
            if not Path(target).is_relative_to(docs.parent):
                return
            path, fragment = Path(target).relative_to(docs.parent).as_posix() + ".md", link.get("reftargetid") or ""
        else:
            path = resolved(self._page(link, docs), unquote(target))
        found = in_docs(docs, path) if target else None
        if found is None:
            return
        kind, place = found
        where = {"refdoc": self.env.docname, "reftype": "myst", "refexplicit": link.get("refexplicit", True)}
        if kind == "page":
            new = addnodes.pending_xref(refdomain="doc", reftarget=place, reftargetid=fragment or None, **where)
        else:
            new = addnodes.download_reference(refdomain=None, reftarget=place, **where)
        new.source, new.line = link.source, link.line
        new += link.children
        link.replace_self(new)


def make(app: Sphinx) -> None:
    """Write the copies."""
    Mirror(Path(app.srcdir).parent).run()


def allow_alone(app: Sphinx, doctree: nodes.document) -> None:
    """A copy that only a link leads to needs no place in the table of contents; pages of ``docs/`` do."""
    if app.env.docname.startswith(f"{FOLDER}/"):
        app.env.metadata[app.env.docname]["orphan"] = ""


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("builder-inited", make)
    app.connect("doctree-read", allow_alone, priority=900)
    app.add_transform(LeadInside)
    return {"parallel_read_safe": True}
