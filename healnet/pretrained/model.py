"""A model that predicts on its own, with all that new patients' tables need: `PretrainedModel`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

import healnet
from healnet._files import need
from healnet.data import Cohort, Standardizer
from healnet.encoders import ModalityEncoder
from healnet.fusion import HEALNet
from healnet.pretrained.architecture import NotDescribableError, describe, rebuild
from healnet.pretrained.card import model_card
from healnet.pretrained.new_patients import match_patients, own_ids
from healnet.pretrained.plausible import warn_of_times
from healnet.survival import BreslowBaseline, TimeBins, risk_score, survival_function
from healnet.training import Ensemble, raw_outputs

need("huggingface_hub", "'healnet[hub]'", "healnet.pretrained")
need("safetensors", "'healnet[hub]'", "healnet.pretrained")

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download  # noqa: E402  # after its absence is explained

from healnet.pretrained.folder import CONFIG, WEIGHTS, read_config, read_models, write_folder  # noqa: E402

__all__ = ["PretrainedModel"]


class PretrainedModel(ModelHubMixin):
    """One trained model, or several whose predictions are averaged, with the scaling and names of their features.

    `save_pretrained` writes a folder, `from_pretrained` reads it, `push_to_hub` uploads it; a fresh process needs nothing
    else to predict new patients. What a prediction is follows from the model's declared `output`.

    The folder reveals of the training patients each feature's center and spread, the times of their events where there are
    baselines, and with a scaler of the method "rank" all values of each feature, sorted, with a warning. Its model
    card says so.

    Args:
        models: HEALNet with a declared `output`, or several of one architecture.
        scaler: Standardizer fitted on the training patients; None where tables go in as they are.
        features: Names of each table's columns, in order; those of the scaler if left out.
        centers: Training mean of each model's risk (cox and discrete), subtracted before models are averaged; 0 if left out.
        scales: Training standard deviation of the same, by which it is divided; 1 if left out.
        baselines: Breslow baseline of each model, for the curves of a Cox model.
        bins: Time bins of a discrete model.
        classes: Names of the classes, in the order of the logits.
        data: Sentence on the training patients, for the model card.
        metrics: Name -> value, for the model card.
        limits: Sentence on the limits of use, for the model card.

    Raises:
        ValueError: Models without a declared output, or that differ in it or in their modalities; numbers of centers,
            scales, baselines, bins, classes or names of features that do not fit; a metric that is no finite number.

    Example:
        >>> import tempfile
        >>> from healnet.datasets import load_mini_acc
        >>> from healnet.training import Recipe, fit_ensemble
        >>> cohort = load_mini_acc().select(["clinical", "rna"])
        >>> train, test = cohort.folds(5, seed=0)[0]
        >>> ensemble = fit_ensemble(cohort[train], Recipe(members=1, epochs=3))
        >>> folder = tempfile.mkdtemp()
        >>> PretrainedModel.of(ensemble, data="73 patients of TCGA-ACC").save_pretrained(folder)
        >>> loaded = PretrainedModel.from_pretrained(folder)
        >>> loaded.predict(cohort[test].to_frame()).shape
        (19, 1)
    """

    def __init__(
        self,
        models: HEALNet | Sequence[HEALNet],
        *,
        scaler: Standardizer | None = None,
        features: Mapping[str, Sequence[str]] | None = None,
        centers: Sequence[float] | None = None,
        scales: Sequence[float] | None = None,
        baselines: BreslowBaseline | Sequence[BreslowBaseline] = (),
        bins: TimeBins | None = None,
        classes: Sequence[str] = (),
        data: str | None = None,
        metrics: Mapping[str, float] | None = None,
        limits: str | None = None,
    ) -> None:
        self.models = [models.eval()] if isinstance(models, HEALNet) else [m.eval() for m in models]
        self.scaler = scaler
        if features is None:
            features = (
                {} if scaler is None else {name: list(t.index) for name, t in scaler.statistics.items()}
            )
        self.features = {name: [str(column) for column in columns] for name, columns in features.items()}
        self.centers = [0.0] * len(self.models) if centers is None else list(centers)
        self.scales = [1.0] * len(self.models) if scales is None else list(scales)
        self.baselines = [baselines] if isinstance(baselines, BreslowBaseline) else list(baselines)
        self.bins = bins
        self.classes = list(classes)
        self.data, self.metrics, self.limits = data, dict(metrics or {}), limits
        self._check()

    def _check(self) -> None:
        if not self.models:
            raise ValueError("expected at least one model, got none")
        others: list[object] = [model for model in self.models if not isinstance(model, HEALNet)]
        if others:
            raise ValueError(f"expected HEALNet models, got {type(others[0]).__name__}")
        first = self.models[0]
        if first.output is None:
            raise ValueError('expected a declared output, as HEALNet(..., output="cox"), got None')
        for model in self.models[1:]:
            if model.output != first.output or list(model.encoders) != list(first.encoders):
                raise ValueError("expected models of one architecture, got others")
        for name, given in (
            ("centers", self.centers),
            ("scales", self.scales),
            ("baselines", self.baselines),
        ):
            if len(given) != len(self.models) and not (name == "baselines" and not given):
                raise ValueError(f"expected {name} of {len(self.models)} models, got {len(given)}")
        if not (np.isfinite(self.centers).all() and np.isfinite(self.scales).all() and min(self.scales) > 0):
            raise ValueError("expected finite centers and positive scales")
        unknown = [name for name in self.features if name not in first.encoders]
        if unknown:
            raise ValueError(
                f"unknown modality {unknown[0]!r}: the model's modalities are {list(first.encoders)}"
            )
        if first.output in ("classes", "value") and any((*self.centers, *(s - 1 for s in self.scales))):
            raise ValueError(f"expected centers and scales of risks alone, got some with {first.output!r}")
        if self.baselines and first.output != "cox":
            raise ValueError(
                f"expected baselines with the output 'cox' alone, got some with {first.output!r}"
            )
        if (self.bins is not None) != (first.output == "discrete"):
            raise ValueError(
                f"expected time bins with the output 'discrete' alone, got {self.bins} with {first.output!r}"
            )
        outputs = None if first.arguments is None else first.arguments["out_dim"]
        bins = None if self.bins is None else self.bins.num_bins
        for what, number in (("time bins", bins), ("classes", len(self.classes) or None)):
            if None not in (number, outputs) and number != outputs:
                raise ValueError(f"expected {what} for the {outputs} outputs of the model, got {number}")
        if len(set(self.classes)) < len(self.classes) or (self.classes and first.output != "classes"):
            raise ValueError(
                f"expected different classes, with the output 'classes', got {self.classes} with {first.output!r}"
            )
        for name, own in self.features.items():
            width = getattr(first.encoders[name], "num_features", None)
            if len(set(own)) < len(own) or width not in (None, len(own)):
                raise ValueError(
                    f"modality {name!r}: expected the name of each feature of its encoder ({width or 'any number'}) once, "
                    f"got {len(own)} names, {len(set(own))} of them different"
                )
        for name, value in self.metrics.items():
            number_like: object = value
            if not isinstance(number_like, int | float) or not np.isfinite(number_like):
                raise ValueError(f"metric {name!r}: expected a finite number, got {value!r}")

    @classmethod
    def of(cls, ensemble: Ensemble, **card: Any) -> PretrainedModel:
        """Wrap what `healnet.training.fit_ensemble` returned; `data`, `metrics` and `limits` go on the model card.

        Raises:
            ValueError: Something else than an Ensemble.
        """
        if not isinstance(ensemble, Ensemble):
            raise ValueError(
                f"expected an Ensemble of fit_ensemble, got {type(ensemble).__name__}; a model of your own is given to "
                "PretrainedModel(models, ...) itself"
            )
        return cls(
            ensemble.models,
            scaler=ensemble.scaler,
            centers=ensemble.centers,
            scales=ensemble.scales,
            baselines=ensemble.baselines,
            **card,
        )

    @property
    def output(self) -> str:
        """Meaning of a prediction: "cox", "discrete", "classes" or "value"."""
        return str(self.models[0].output)

    def predict(self, data: Cohort | pd.DataFrame | Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Predict new patients, whatever each of them lacks.

        Args:
            data: Tables as they were read, not scaled, indexed by patient id: one of all modalities (columns `rna:TP53`, or
                `TP53` where only one modality has it), one per modality, or a cohort. Columns are found by name, in any
                order; others are left out, features that are absent count as missing, with a warning.

        Returns:
            One row per patient, with the ids of the data. Columns by output: "risk" (cox and discrete, larger = worse), a
            probability per class, or "value".

        Raises:
            ValueError: No feature of the model in the data, a patient without any, a cell that is not a number.

        Warns:
            UserWarning: Features that are absent; values that look as if they were in other units than those of training.
        """
        cohort = match_patients(data, list(self.models[0].encoders), self.features, self.scaler)
        raw = [output.double() for output in raw_outputs(self.models, cohort)]
        patients = own_ids(data, cohort.patients)
        if self.output == "classes":
            columns = self.classes or [str(i) for i in range(raw[0].shape[1])]
            mean = torch.stack([logits.softmax(dim=1) for logits in raw]).mean(dim=0)
            return pd.DataFrame(mean.numpy(), index=patients, columns=columns)
        column = "value" if self.output == "value" else "risk"
        values = [risk_score(logits) if self.output == "discrete" else logits[:, 0] for logits in raw]
        scaled = [(v - c) / s for v, c, s in zip(values, self.centers, self.scales, strict=True)]
        mean = torch.stack(scaled).mean(dim=0)
        return pd.DataFrame({column: mean.numpy()}, index=patients)

    def survival(
        self, data: Cohort | pd.DataFrame | Mapping[str, pd.DataFrame], times: ArrayLike
    ) -> pd.DataFrame:
        """Probability of surviving beyond each time: one row per patient, one column per time.

        Args:
            data: As for `predict`.
            times: (t,), in the unit of the training patients' times.

        Raises:
            ValueError: As `predict`; a model without baselines or bins; a time that is negative or NaN.

        Warns:
            UserWarning: As `predict`; times before the first event of training alone, or after the last.
        """
        if not self.baselines and self.bins is None:
            raise ValueError(
                f"expected baselines or time bins, which curves need, got a model of output {self.output!r} with neither"
            )
        cohort = match_patients(data, list(self.models[0].encoders), self.features, self.scaler)
        at = np.atleast_1d(np.asarray(times, dtype=np.float64))
        if self.bins is not None:
            warn_of_times(at, 0.0, float(self.bins.edges[-1]))
        else:
            warn_of_times(
                at, min(b.times[0] for b in self.baselines), max(b.last_time for b in self.baselines)
            )
        raw = [output.double() for output in raw_outputs(self.models, cohort)]
        if self.bins is not None:
            curves = [survival_function(logits, self.bins).at(at) for logits in raw]
        else:
            curves = [b.survival(r, at) for b, r in zip(self.baselines, raw, strict=True)]
        mean = torch.stack(curves).mean(dim=0).numpy()
        return pd.DataFrame(mean, index=own_ids(data, cohort.patients), columns=at)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README that is saved beside the weights."""
        config = self._config()
        encoders = dict(self.models[0].encoders.items())
        custom = ["build=YOUR_FUNCTION"] if config["architecture"] is None else []
        own = {type(e).__name__ for e in encoders.values() if not type(e).__module__.startswith("healnet.")}
        if own and not custom:
            custom = [f"encoders=[{', '.join(sorted(own))}]"]
        widths = {name: len(self.features[name]) if name in self.features else None for name in encoders}
        return ModelCard(
            model_card(
                self.output,
                widths,
                len(self.models),
                config["version"],
                data=self.data,
                metrics=self.metrics,
                limits=self.limits,
                custom=custom,
                told=self._told(),
            )
        )

    def _told(self) -> list[str]:
        """Statements of the saved folder about the training patients, for the model card."""
        told = []
        if self.scaler is not None:
            told.append("mean or median, and spread, of each feature, and how many patients have it")
            if self.scaler.method == "rank":
                told.append(
                    '**every value of each feature, sorted**, without saying whose it is (`standardize="rank"`)'
                )
        if self.baselines:
            told.append("the times of their events")
        return told

    def _config(self) -> dict[str, Any]:
        try:
            architecture, reason = describe(self.models[0]), None
        except NotDescribableError as error:
            architecture, reason = None, str(error)
        return {
            "version": healnet.__version__,
            "torch": torch.__version__,
            "architecture": architecture,
            "reason": reason,
            "members": len(self.models),
            "modalities": list(self.models[0].encoders),
            "features": self.features,
            "scaler": None if self.scaler is None else self.scaler.to_dict(),
            "centers": self.centers,
            "scales": self.scales,
            "baselines": [baseline.to_dict() for baseline in self.baselines],
            "bins": None if self.bins is None else self.bins.to_dict(),
            "classes": self.classes,
            "card": {"data": self.data, "metrics": self.metrics, "limits": self.limits},
        }

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.scaler is not None and self.scaler.method == "rank":
            warnings.warn(
                'a scaler of the method "rank" is saved with every training value of its tables, sorted by column: share '
                "the folder only where these may be shared",
                UserWarning,
                stacklevel=3,  # the caller of save_pretrained
            )
        write_folder(Path(save_directory), self._config(), self.models)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        encoders: Iterable[type[ModalityEncoder]] = (),
        build: Callable[[], HEALNet] | None = None,
        **hub: Any,
    ) -> PretrainedModel:
        """Load a folder, or a repository of the Hub by its name. Nothing of it is unpickled or run.

        Args:
            pretrained_model_name_or_path: Folder, or "owner/name".
            encoders: Classes of encoders of your own, found by name. They keep each constructor argument as an attribute.
            build: Function that makes the untrained model, for one that plain values do not describe: with layers or a head
                of your own, or a network as an encoder.
            **hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download` of huggingface_hub.

        Raises:
            ValueError: A folder that does not hold a whole saved model of this library; says which file and why.
        """
        path = Path(pretrained_model_name_or_path)
        if path.is_dir():
            return cls._load(path, encoders, build)
        if path.exists() or len(path.parts) != 2 or path.is_absolute() or path.parts[0] in (".", ".."):
            raise ValueError(
                f"{path}: expected a folder, or 'owner/name' of the Hub, and there is no such folder"
            )
        for name in (CONFIG, WEIGHTS):
            found = hf_hub_download(str(pretrained_model_name_or_path), name, **hub)
        return cls._load(Path(found).parent, encoders, build)

    @classmethod
    def _load(
        cls, folder: Path, encoders: Iterable[type[ModalityEncoder]], build: Callable[[], HEALNet] | None
    ) -> PretrainedModel:
        config = read_config(folder)
        if build is None and config.get("architecture") is None:
            raise ValueError(
                f"{folder}: expected `build=`, a function that makes the model: {config.get('reason')}"
            )
        try:
            make = build or partial(rebuild, config["architecture"], tuple(encoders))
            models = read_models(folder, make, int(config["members"]))
            bins, scaler = config["bins"], config["scaler"]
            return cls(
                models,
                scaler=None if scaler is None else Standardizer.from_dict(scaler),
                features=config["features"],
                centers=config["centers"],
                scales=config["scales"],
                baselines=[BreslowBaseline.from_dict(baseline) for baseline in config["baselines"]],
                bins=None if bins is None else TimeBins.from_dict(bins),
                classes=config["classes"],
                **config["card"],
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder / CONFIG}: expected a saved model, got {error!r}") from error
