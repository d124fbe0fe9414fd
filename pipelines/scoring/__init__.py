"""From face probabilities to video scores, and how good those are."""
