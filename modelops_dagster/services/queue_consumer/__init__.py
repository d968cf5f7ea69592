"""The program beside the engine of an ASYNC endpoint: it takes requests from the queue and puts answers there."""
