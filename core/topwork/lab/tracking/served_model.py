"""A trained model as MLflow stores it: this code, and the model's folder.

MLflow runs this file to load the model, so that nothing has to be pickled.
"""

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel


class TaskPrediction(BaseModel):
    """What one head says of one text; the probabilities sum to 1."""

    label: str
    probabilities: dict[str, float]


class ServedModel(PythonModel):
    """Predicts every task for each text."""

    def load_context(self, context: PythonModelContext) -> None:
        import topwork

        self.trained = topwork.load_model(context.artifacts["model"])

    # mlflow accepts this shorter signature and reads the types of inputs and outputs off it.
    def predict(  # type: ignore[override]
        self, model_input: list[str]
    ) -> list[dict[str, TaskPrediction]]:
        import topwork

        try:
            predictions = self.trained.predict(model_input)
        except topwork.DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return [
            {task: TaskPrediction(label=one.label, probabilities=one.probabilities) for task, one in by_task.items()}
            for by_task in predictions
        ]


mlflow.models.set_model(ServedModel())
