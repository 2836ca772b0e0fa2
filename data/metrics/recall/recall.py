"""Share of the positives that are predicted. Loaded by its folder, without the Hub."""

import datasets
import evaluate
from sklearn.metrics import recall_score


class Recall(evaluate.Metric):
    """`sklearn.metrics.recall_score`, with the arguments of the Hub's `recall`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of the positives that are predicted.",
            citation="",
            inputs_description="predictions, references: one class number per row.",
            features=datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}),
        )

    def _compute(self, predictions, references, labels=None, pos_label=1, average="binary", sample_weight=None):
        score = recall_score(
            references, predictions, labels=labels, pos_label=pos_label, average=average, sample_weight=sample_weight
        )
        return {"recall": score if getattr(score, "size", 1) > 1 else float(score)}
