"""What is done with the stores of a data directory beside the broker: looking at them, carrying them elsewhere, and
laying them out for another number of workers. Run as `python -m worker.store`, by `stampede store` and by the front."""
