"""What every front end that routes has in common, whoever serves behind it."""
