"""Labels of a run in other programs' formats, and back: a module for each, with ``write`` and ``read``."""
