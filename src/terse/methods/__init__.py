"""Methods, one folder each: their models, training losses, scores and costs."""
