"""The program that owns endpoints: desired state in, observed state out. Nothing else starts an engine."""
