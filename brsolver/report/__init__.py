"""Reports: tables, figures, HTML and the files they go to."""
