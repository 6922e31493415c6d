"""Diagrams and formulas without a script: flow charts as SVG, LaTeX as MathML, both drawn while the site is built."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from flow_chart import Chart, parsed
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Mermaid(SphinxDirective):
    """A fence ``mermaid``: a flow chart of plain arrows is drawn, any other diagram is shown as it is written."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The picture, or a literal block."""
        text = "\n".join(self.content)
        arrows = parsed(text)
        if not arrows:
            return [nodes.literal_block(text, text, language="text")]
        try:
            picture = Chart(arrows).svg()
        except ValueError as error:
            raise self.error(str(error)) from None
        figure = nodes.container(classes=["flow-chart"])
        figure += nodes.raw("", picture, format="html")
        return [figure]


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.add_directive("mermaid", Mermaid)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
