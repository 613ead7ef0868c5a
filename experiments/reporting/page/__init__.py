"""One HTML file that shows runs: no server, no network, and nothing lost with scripts off.

    run = runs.load(folder, catalogue.get)
    page.write(path, [page.section(run, pictures)])

``sections`` takes from a run what is shown, ``markup`` says it in HTML, ``document`` puts the
file together; ``tables``, ``diagrams``, ``examples``, ``overlays`` and ``pictures`` make the
parts. What moves is in the ``.js`` files, which get their numbers from JSON in the page. Every
text goes through ``escaping``: a question is a stranger's.
"""

from experiments.reporting.page.document import write
from experiments.reporting.page.examples import NUM_EXAMPLES
from experiments.reporting.page.sections import MOST_MARGINS, Section, section
from experiments.reporting.page.tables import Table

__all__ = ["MOST_MARGINS", "NUM_EXAMPLES", "Section", "Table", "section", "write"]
