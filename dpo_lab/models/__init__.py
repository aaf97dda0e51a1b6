"""Language models: loading, LoRA, scoring, sampling, reward models, the reference and its cache."""
