"""Published tables and figures, rebuilt by this project's simulator: ``make reproduce``.

A module per published table or figure, each with its `STUDY`: what was published and where, under
which conditions it is rebuilt here, and which of them differ. docs/reproduce.md shows what comes
out and says what may be concluded.
"""
