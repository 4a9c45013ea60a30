"""What a person does with models and runs, besides the stages."""
