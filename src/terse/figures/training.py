"""Figures of a training run."""

import pandas as pd
from matplotlib.figure import Figure

from terse.figures.style import BLUE, GREY, ORANGE, WIDTH_IN, paper_style


def loss_curves(history: pd.DataFrame) -> Figure:
    """Draw training and validation loss, and the learning rate, against the step."""
    train = history[history["split"] == "train"]
    validation = history[history["split"] == "validation"]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.3))
        losses, rates = figure.subplots(1, 2, width_ratios=[2, 1])
        losses.plot(train["step"], train["loss_nats"], color=BLUE, label="training")
        losses.plot(
            validation["step"], validation["loss_nats"], "o--", color=ORANGE, label="validation"
        )
        losses.set(xlabel="step", ylabel="loss (nats per token)")
        losses.legend()
        rates.plot(train["step"], train["learning_rate"], color=GREY)
        rates.set(xlabel="step", ylabel="learning rate")
        rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure
