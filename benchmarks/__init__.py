"""What reproduces each published number and each speed claim: ``make bench``."""
