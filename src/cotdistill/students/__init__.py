"""Students: pairs as tokens, and the training that learns from them."""
