"""Reports of how good forecasts are: tables for the terminal, one page for the browser."""
