"""How one job is answered at one tier."""
