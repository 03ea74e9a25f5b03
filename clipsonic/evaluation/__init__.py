"""How good the sounds are: embeddings, judges, tables."""
