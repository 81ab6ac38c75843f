"""Method `blotching`: chains of reasoning are trained on with whole steps left out."""
