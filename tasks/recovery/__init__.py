"""Nothing is lost: what we hold is kept, what nobody holds is found again."""
