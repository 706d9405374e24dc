"""Files for deployment, and `ray`, the one package among them."""
