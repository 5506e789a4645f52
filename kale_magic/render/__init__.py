"""Pictures and tables of workflows and runs, as SVG, HTML and text. Pure: data in, strings out; no IPython, no client."""
