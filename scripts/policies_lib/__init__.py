"""What scripts/policies is made of."""
