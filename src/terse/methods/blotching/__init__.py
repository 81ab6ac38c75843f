"""Method `blotching`: training on chains of reasoning with whole steps left out."""
