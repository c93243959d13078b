"""Parts of models, written with operators alone (``pocketvlm.models.operators``); one kind of part, one file."""
