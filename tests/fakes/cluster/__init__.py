"""A Kubernetes API server on loopback: strict about what it is given, with pods that do what a test tells them."""
