"""What the parts of a dashboard show, as plain data: no browser, no IPython, no manager. Tested without any of them."""
