"""What a checkpoint says around its weights: processor, chat template, layout, and what a model is shown."""
