"""``topwork schema``."""

import json
from pathlib import Path

from topwork.cli.output import write_json
from topwork.cli.tables import console
from topwork.experiment.json_schema import experiment_schema
from topwork.files import write_file
from topwork.registry import Registry


def show_schema(registry: Registry, output: Path | None) -> None:
    """Print the JSON schema of an experiment file, or write it to a file.

    Raises:
        StorageError: the file cannot be written.
    """
    schema = experiment_schema(registry)
    if output is None:
        write_json(schema)
        return
    write_file(output, f"{json.dumps(schema, indent=2)}\n".encode())
    console.print(f"{output}: name it in the first line of an experiment: # yaml-language-server: $schema={output}")
