"""A trained model as MLflow stores it: this code, and the model's folder.

MLflow runs this file to load the model, so that nothing has to be pickled.
"""

import mlflow
import pandas
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """Predicts every task for each text.

    A text with a tab in it is a pair, for the tasks that read such; one that is to be divided into words is divided at
    its blanks.
    """

    def load_context(self, context: PythonModelContext) -> None:
        import topwork

        trusted = bool((context.model_config or {}).get("trust_plugins"))
        self.trained = topwork.load_model(context.artifacts["model"], trust_plugins=trusted)

    # mlflow accepts this shorter signature and reads the type of the input off it.
    def predict(self, model_input: list[str]) -> pandas.DataFrame:  # type: ignore[override]
        """Return, for each text, a row with two columns for each task, or three.

        ``<task>`` is its label: a text, a list of texts, a number, or numbers by name. ``<task>.probabilities`` has the
        probability of each class by name, where the label is no number; of words a list of those. ``<task>.words`` has
        the words that a list of labels is for. All are empty for texts that a task does not read.
        """
        import topwork

        try:
            predictions = self.trained.predict(model_input)
        except topwork.DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        columns: dict[str, list[object]] = {}
        for task in dict.fromkeys(task for by_task in predictions for task in by_task):
            of_task = [by_task.get(task) for by_task in predictions]
            columns[task] = [None if one is None else _plain(one.label) for one in of_task]
            if any(one is not None and one.probabilities is not None for one in of_task):
                columns[f"{task}.probabilities"] = [None if one is None else one.probabilities for one in of_task]
            if any(one is not None and one.words is not None for one in of_task):
                columns[f"{task}.words"] = [None if one is None else _plain(one.words) for one in of_task]
        return pandas.DataFrame(columns)


def _plain(label: object) -> object:
    return list(label) if isinstance(label, tuple) else label


mlflow.models.set_model(ServedModel())
