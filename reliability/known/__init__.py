"""Generated databases of whose every table it is known whose rows it holds: what `domicile survey` is judged by."""
