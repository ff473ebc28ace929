"""Questions: each file holds what is asked, how it is sampled and scored, a recipe and its claims."""
