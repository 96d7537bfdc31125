"""A trained model, of one network or several, with all that new patients' tables need: `TrainedModel`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from healnet._files import need
from healnet._warnings import warn
from healnet.data import Batch, Cohort, CohortDataset, Standardizer
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.pretrained.new_patients import match_patients, own_ids
from healnet.pretrained.plausible import warn_of_times
from healnet.survival import BreslowBaseline, TimeBins, risk_score, survival_function
from healnet.training._outputs import raw_outputs
from healnet.training._parts import check_card, check_parts

__all__ = ["TrainedModel"]

Data = Cohort | pd.DataFrame | Mapping[str, pd.DataFrame]


class TrainedModel(nn.Module):
    """One trained network, or several whose predictions are averaged, with the scaling and names of their features.

    It predicts new patients from their tables as they were read, is saved and loaded as a folder, and is explained by
    `healnet.explain`, which takes it where it takes a network: as a module, it maps a batch of standardized inputs
    (`batch`) to its prediction.

    Args:
        models: Network with a declared `output`, or several of one architecture.
        output: Meaning of a network's raw output, as `HEALNet` declares it; the networks' own if left out.
        modalities: Modalities that the networks take; the names of their encoders if left out.
        scaler: Standardizer fitted on the training patients; None where tables go in as they are.
        features: Names of each table's columns, in order; those of the scaler if left out.
        centers: Training mean of each network's risk (cox and discrete), subtracted before they are averaged; 0 if left out.
        scales: Training standard deviation of the same, by which it is divided; 1 if left out. Averaging risks as they are
            would weigh networks by how far they were trained.
        baselines: Breslow baseline of each network, for the curves of a Cox model; none after training with strata, which
            share none.
        bins: Time bins of a discrete model.
        classes: Names of the classes, in the order of the logits.
        card: `data` and `limits` (sentences on the training patients and on the limits of use) and `metrics` (name ->
            value) for the model card of a saved folder.

    Attributes:
        kind: Meaning of the networks' raw outputs: "cox", "discrete", "classes" or "value".
        output: What this model gives: "risk" (cox and discrete; larger = worse), "classes" or "value".

    Shape:
        inputs: as the networks take them
        returns: (b, 1) risk or value; (b, k) logarithms of the classes' probabilities

    Raises:
        ValueError: Networks without a declared output, or that differ in it or in their modalities; numbers of centers,
            scales, baselines, bins, classes or names of features that do not fit; a metric that is no finite number.

    Example:
        >>> import tempfile
        >>> from healnet.datasets import load_mini_acc
        >>> from healnet.training import Recipe, fit_ensemble
        >>> cohort = load_mini_acc().select(["clinical", "rna"])
        >>> train, test = cohort.folds(5, seed=0)[0]
        >>> model = fit_ensemble(cohort[train], Recipe(members=1, epochs=3))
        >>> folder = tempfile.mkdtemp()
        >>> model.save(folder, data="73 patients of TCGA-ACC")
        >>> loaded = TrainedModel.load(folder)
        >>> loaded
        TrainedModel(1 network, output cox, clinical 5 features, rna 198 features)
        >>> loaded.predict(cohort[test].to_frame()).shape
        (19,)
    """

    def __init__(
        self,
        models: nn.Module | Sequence[nn.Module] | nn.ModuleList,
        *,
        output: Output | None = None,
        modalities: Sequence[str] | None = None,
        scaler: Standardizer | None = None,
        features: Mapping[str, Sequence[str]] | None = None,
        centers: Sequence[float] | None = None,
        scales: Sequence[float] | None = None,
        baselines: BreslowBaseline | Sequence[BreslowBaseline] = (),
        bins: TimeBins | None = None,
        classes: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        networks = list(models) if isinstance(models, Sequence | nn.ModuleList) else [models]
        if not networks:
            raise ValueError("expected at least one model, got none")
        self.models = nn.ModuleList(networks)
        self.kind: Output | None = output or getattr(networks[0], "output", None)
        self.modalities = list(getattr(networks[0], "encoders", ()) if modalities is None else modalities)
        self.scaler = scaler
        if features is None:
            features = (
                {} if scaler is None else {name: list(t.index) for name, t in scaler.statistics.items()}
            )
        self.features = {name: [str(column) for column in columns] for name, columns in features.items()}
        self.centers = tuple([0.0] * len(networks) if centers is None else centers)
        self.scales = tuple([1.0] * len(networks) if scales is None else scales)
        self.baselines = (baselines,) if isinstance(baselines, BreslowBaseline) else tuple(baselines)
        self.bins = bins
        self.classes = list(classes)
        self.card: dict[str, Any] = {"data": None, "metrics": {}, "limits": None, **(card or {})}
        check_parts(self)
        check_card(self.card)
        self.output = "risk" if self.kind in ("cox", "discrete") else str(self.kind)
        self.eval()

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The prediction from a batch of standardized inputs."""
        return self.combine([model(inputs) for model in self.models])

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """The prediction from the raw outputs (b, out_dim) of each network: (b, 1), or (b, k) of classes."""
        if self.kind == "classes":
            # In logarithms: the mean of probabilities, without losing small ones.
            return torch.stack([x.log_softmax(dim=1) for x in outputs]).logsumexp(dim=0) - np.log(
                len(outputs)
            )
        values = [risk_score(x) if self.kind == "discrete" else x[:, 0] for x in outputs]
        scaled = [(v - c) / s for v, c, s in zip(values, self.centers, self.scales, strict=True)]
        return torch.stack(scaled).mean(dim=0).unsqueeze(1)

    def batch(self, data: Data) -> Batch:
        """The patients as one batch of inputs with the model's features, standardized, on its device.

        What `healnet.explain` explains: ``shapley_modalities(model, model.batch(cohort).inputs)``.

        Raises:
            ValueError: As `predict`.
        """
        parameter = next(self.parameters())
        return CohortDataset(self._matched(data), dtype=parameter.dtype).batch().to(parameter.device)

    def outputs(self, data: Data) -> list[Tensor]:
        """The raw outputs (n, out_dim) of each network, from all patches, in float64 on the CPU.

        Raises:
            ValueError: As `predict`.
        """
        return raw_outputs(self.models, self._matched(data))

    def predict(self, data: Data) -> pd.Series:
        """Predict new patients, whatever each of them lacks.

        Args:
            data: Tables as they were read, not scaled, indexed by patient id: one of all modalities (columns `rna:TP53`, or
                `TP53` where only one modality has it), one per modality, or a cohort. Columns are found by name, in any
                order; others are left out, features that are absent count as missing, with a warning.

        Returns:
            (n,) by the patients' ids: "risk" (cox and discrete; larger = worse, in units of the training patients' spread),
            "class" (the most probable one; see `predict_proba`) or "value".

        Raises:
            ValueError: No feature of the model in the data, no patient, a cell that is not a number.

        Warns:
            UserWarning: Features that are absent; patients who have none of the model's features; values that look as if
                they were in other units than those of training.
        """
        if self.kind == "classes":
            return self.predict_proba(data).idxmax(axis=1).rename("class")
        cohort = self._matched(data)
        found = self.combine(raw_outputs(self.models, cohort))[:, 0]
        return pd.Series(found.numpy(), own_ids(data, cohort.patients), name=self.output)

    def predict_proba(self, data: Data) -> pd.DataFrame:
        """Probability (n, k) of each class, by the patients' ids.

        Raises:
            ValueError: As `predict`; a model of another output than "classes".

        Warns:
            UserWarning: As `predict`.
        """
        if self.kind != "classes":
            raise ValueError(f"expected a model of the output 'classes', got {self.kind!r}; see predict")
        cohort = self._matched(data)
        found = self.combine(raw_outputs(self.models, cohort)).exp()
        names = self.classes or [str(i) for i in range(found.shape[1])]
        return pd.DataFrame(found.numpy(), own_ids(data, cohort.patients), names)

    def survival(self, data: Data, times: ArrayLike) -> pd.DataFrame:
        """Probability of surviving beyond each time, the mean of the networks' curves: a row per patient, a column per time.

        Args:
            data: As for `predict`.
            times: (t,), in the unit of the training patients' times.

        Raises:
            ValueError: As `predict`; a model without baselines or bins; a time that is negative or NaN.

        Warns:
            UserWarning: As `predict`; times before the first event of training alone, or far after the last.
        """
        if not self.baselines and self.bins is None:
            raise ValueError(
                f"expected baselines or time bins, which curves need, got a model of output {self.kind!r} with neither; "
                "after training with strata fit a baseline per stratum (healnet.survival.BreslowBaseline)"
            )
        cohort = self._matched(data)
        at = np.atleast_1d(np.asarray(times, dtype=np.float64))
        raw = raw_outputs(self.models, cohort)
        if self.bins is not None:
            warn_of_times(at, 0.0, float(self.bins.edges[-1]))
            curves = [survival_function(logits, self.bins).at(at) for logits in raw]
        else:
            first, last = min(b.times[0] for b in self.baselines), max(b.last_time for b in self.baselines)
            warn_of_times(at, first, last)
            curves = [b.survival(r, at) for b, r in zip(self.baselines, raw, strict=True)]
        mean = torch.stack(curves).mean(dim=0).numpy()
        return pd.DataFrame(mean, own_ids(data, cohort.patients), at)

    def save(self, folder: str | Path, *, build: Callable[[], nn.Module] | None = None, **card: Any) -> None:
        """Write a folder from which `load` makes the same model in a fresh process: weights, configuration, model card.

        The folder reveals of the training patients each feature's center and spread, the times of their events where there
        are baselines, and with a scaler of the method "rank" all values of each feature, sorted. Its model card says so.

        Args:
            folder: Folder to write into; created if missing.
            build: Function that makes an untrained network, for one that plain values do not describe: with layers or a head
                of your own, a network as an encoder, another class. `load` is given the same.
            **card: `data`, `metrics` and `limits` for the model card, as in the constructor.

        Raises:
            ValueError: Networks that could not be made again when they are loaded; says why.

        Warns:
            UserWarning: A scaler of the method "rank".
        """
        from healnet.pretrained.saving import save_folder  # here, for safetensors is an extra

        check_card(card := {**self.card, **card})
        if self.scaler is not None and self.scaler.method == "rank":
            warn(
                'a scaler of the method "rank" is saved with every training value of its tables, sorted by column: share '
                "the folder only where these may be shared"
            )
        parts = {
            "output": self.kind,
            "modalities": self.modalities,
            "features": self.features,
            "scaler": None if self.scaler is None else self.scaler.to_dict(),
            "centers": self.centers,
            "scales": self.scales,
            "baselines": [baseline.to_dict() for baseline in self.baselines],
            "bins": None if self.bins is None else self.bins.to_dict(),
            "classes": self.classes,
            "card": card,
        }
        save_folder(Path(folder), list(self.models), parts, build)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoders: Iterable[type[ModalityEncoder]] = (),
        build: Callable[[], nn.Module] | None = None,
        **hub: Any,
    ) -> TrainedModel:
        """Load a folder, or a repository of the Hugging Face Hub by its name. Nothing of it is unpickled or run.

        Args:
            folder: Folder that `save` wrote, or "owner/name".
            encoders: Classes of encoders of your own, found by name. They keep each constructor argument as an attribute.
            build: Function that makes an untrained network, for a model that was saved with one.
            **hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download` of huggingface_hub.

        Raises:
            ValueError: A folder that does not hold a whole saved model of this library; says which file and why.
        """
        from healnet.pretrained.saving import load_folder

        models, parts, path = load_folder(folder, tuple(encoders), build, hub)
        try:
            bins, scaler = parts["bins"], parts["scaler"]
            parts["baselines"] = [BreslowBaseline.from_dict(baseline) for baseline in parts["baselines"]]
            parts["bins"] = None if bins is None else TimeBins.from_dict(bins)
            parts["scaler"] = None if scaler is None else Standardizer.from_dict(scaler)
            return cls(models, **parts)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: expected a saved model, got {error!r}") from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        build: Callable[[], nn.Module] | None = None,
        token: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> str:
        """Upload the saved folder to a repository "owner/name" of the Hugging Face Hub, created if missing.

        Args:
            repo_id: Name of the repository.
            build: As for `save`.
            token: Access token; that of `hf auth login` if left out.
            private: Whether a new repository is private; the owner's default if left out.
            **card: As for `save`.

        Returns:
            Address of the commit.

        Raises:
            ValueError: As `save`.
        """
        api = need("huggingface_hub", "'healnet[hub]'", "TrainedModel.push_to_hub").HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save(folder, build=build, **card)
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload model")
        return str(commit)

    def __repr__(self) -> str:
        parts = [
            f"{n} {len(self.features[n])} features" if n in self.features else n for n in self.modalities
        ]
        number = f"{len(self.models)} network" + "s" * (len(self.models) > 1)
        return f"TrainedModel({', '.join([number, f'output {self.kind}', *parts])})"

    def _matched(self, data: Data) -> Cohort:
        return match_patients(data, self.modalities, self.features, self.scaler)
