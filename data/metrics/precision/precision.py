"""Share of the predicted positives that are positive. Loaded by its folder, without the Hub."""

import datasets
import evaluate
from sklearn.metrics import precision_score


class Precision(evaluate.Metric):
    """`sklearn.metrics.precision_score`, with the arguments of the Hub's `precision`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of the predicted positives that are positive.",
            citation="",
            inputs_description="predictions, references: one class number per row.",
            features=datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}),
        )

    def _compute(self, predictions, references, labels=None, pos_label=1, average="binary", sample_weight=None):
        score = precision_score(
            references, predictions, labels=labels, pos_label=pos_label, average=average, sample_weight=sample_weight
        )
        return {"precision": score if getattr(score, "size", 1) > 1 else float(score)}
