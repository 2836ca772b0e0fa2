"""Share of predictions that equal their label. Loaded by its folder, without the Hub."""

import datasets
import evaluate
from sklearn.metrics import accuracy_score


class Accuracy(evaluate.Metric):
    """`sklearn.metrics.accuracy_score`, with the arguments of the Hub's `accuracy`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of predictions that equal their label.",
            citation="",
            inputs_description="predictions, references: one class number per row.",
            features=datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}),
        )

    def _compute(self, predictions, references, normalize=True, sample_weight=None):
        score = accuracy_score(references, predictions, normalize=normalize, sample_weight=sample_weight)
        return {"accuracy": score if getattr(score, "size", 1) > 1 else float(score)}
