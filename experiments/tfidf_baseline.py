"""What counting words achieves: TF-IDF and logistic regression on exactly the rows of an experiment.

    python experiments/tfidf_baseline.py experiments/quickstart.yaml [--set PATH=VALUE ...]

Features are single words and pairs with sublinear term frequency. The strength of regularisation is chosen among
1, 10 and 100 by five-fold cross-validation within the training rows. Measured on the test rows, or on the
validation rows where there are no test rows.
"""

import argparse

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import topwork
from topwork.cli.tables import show_estimates
from topwork.data.dataset import load_dataset
from topwork.engine.evaluation.estimates import estimate


def main() -> None:
    """Fit one classifier for each task and print its figures."""
    arguments = argparse.ArgumentParser(description="TF-IDF and logistic regression on an experiment's rows.")
    arguments.add_argument("file")
    arguments.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    chosen = arguments.parse_args()
    experiment = topwork.load_experiment(chosen.file, chosen.set)
    dataset = load_dataset(experiment.data, experiment.label_columns)
    train = dataset.splits["train"]
    split = "test" if "test" in dataset.splits else "validation"
    figures = {}
    for task, labels in dataset.labels.items():
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        pipeline = make_pipeline(words, LogisticRegression(max_iter=1000))
        model = GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=5)
        model.fit(*train.of_task(task))
        texts, targets = dataset.splits[split].of_task(task)
        probabilities = torch.from_numpy(model.predict_proba(texts))  # (N, C)
        for metric in topwork.class_metrics(len(labels.names)):
            figures[f"{task}/{metric.name}"] = estimate(metric, [probabilities], torch.from_numpy(targets))
    show_estimates(figures, f"TF-IDF and logistic regression, {split} rows")


if __name__ == "__main__":
    main()
