"""A trained model as MLflow stores it: this code, and the model's folder.

MLflow runs this file to load the model, so that nothing has to be pickled.
"""

import mlflow
import pandas
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """Predicts every task for each text."""

    def load_context(self, context: PythonModelContext) -> None:
        import topwork

        self.trained = topwork.load_model(context.artifacts["model"])

    # mlflow accepts this shorter signature and reads the type of the input off it.
    def predict(self, model_input: list[str]) -> pandas.DataFrame:  # type: ignore[override]
        """Return, for each text, a row with two columns for each task.

        ``<task>`` is its label: a text, a list of texts, a number, or numbers by name. ``<task>.probabilities`` has the
        probability of each class by name, where the label is no number.
        """
        import topwork

        try:
            predictions = self.trained.predict(model_input)
        except topwork.DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        columns: dict[str, list[object]] = {}
        for task in predictions[0]:
            of_task = [by_task[task] for by_task in predictions]
            columns[task] = [list(one.label) if isinstance(one.label, tuple) else one.label for one in of_task]
            if of_task[0].probabilities is not None:
                columns[f"{task}.probabilities"] = [one.probabilities for one in of_task]
        return pandas.DataFrame(columns)


mlflow.models.set_model(ServedModel())
