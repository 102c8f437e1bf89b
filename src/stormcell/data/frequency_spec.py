"""What a model of frequencies must know of the data: genes, inputs and outputs. From the training part only."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class FrequencySpec:
    """Plain values that ride in every checkpoint; the sizes of a model are properties of it."""

    genes: tuple[str, ...]
    scale: str  # counts · log1p · continuous
    task: str  # regression · classification
    outputs: tuple[str, ...]  # "frequency 1", …; or the names of classes
    eigenvalues: tuple[float, ...]  # of the Laplacian, ascending; none for classes
    inputs: str  # genes · components
    n_inputs: int  # genes, or principal components

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def n_outputs(self) -> int:
        return len(self.outputs)

    @property
    def extent(self) -> str:
        """How large the question is, for the first line of a run."""
        what = "frequencies" if self.task == "regression" else "classes"
        return f"{self.n_outputs} {what} from {self.n_inputs:,} {self.inputs}"

    def record(self) -> dict:
        """Lists and plain values only (a checkpoint loads with weights_only=True)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: dict) -> FrequencySpec:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in record.items()})
