"""The page as one file: what it may load (nothing), its style, its sections and its scripts."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import pathlib
from collections.abc import Sequence

from experiments.reporting.page import markup
from experiments.reporting.page.escaping import line
from experiments.reporting.page.sections import Section
from experiments.reporting.page.tables import Table
from llava_jax import atomic

_SCRIPTS = ("numbers.js", "elements.js", "diagrams.js", "compare.js", "questions.js", "start.js")
"""In the order in which each needs those before it."""

_WITHOUT_SCRIPTS = "Scripts are off: tables, diagrams and questions are here, and nothing moves."


def write(
    path: pathlib.Path,
    sections: Sequence[Section],
    *,
    title: str = "Visual token pruning and confidence",
    tables: Sequence[Table] = (),
) -> None:
    """Write the page; the same sections give the same bytes.

    Args:
        path: of the file; its folder is made.
        sections: one per run.
        title: of the page.
        tables: that stand before the sections.

    Raises:
        OSError: it cannot be written; an old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, _document(sections, title, tables))


def _document(sections: Sequence[Section], title: str, tables: Sequence[Table]) -> str:
    """Return the page's HTML."""
    style = _asset("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(map(_asset, _SCRIPTS)) + "})();\n"
    names = [f"run{place}" for place in range(len(sections))]
    links = [
        f'<a href="#{name}">{line(one.title)}</a>'
        for name, one in zip(names, sections, strict=True)
    ]
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{line(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<header><h1>{line(title)}</h1>",
        f"<nav>{' '.join(links)}</nav>" if len(links) > 1 else "",
        f"<noscript><p>{_WITHOUT_SCRIPTS}</p></noscript></header>",
        "<main>",
        *map(markup.table, tables),
        *(markup.section(one, name) for name, one in zip(names, sections, strict=True)),
        f"</main>\n<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _policy(style: str, script: str) -> str:
    """Allow the page's own style and script and pictures inside of it, and nothing else."""
    own = f"style-src {_hash(style)}; script-src {_hash(script)}"
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _asset(name: str) -> str:
    """Return a file of this package."""
    return importlib.resources.files("experiments.reporting.page").joinpath(name).read_text("utf-8")
