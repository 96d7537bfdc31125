"""Explain a model: scores per patch, gene, voxel and modality; how faithful they are; pictures, QuPath files, reports.

Every score is ``f(model, inputs, *, modalities=None, risk=None, ...) -> {modality: tensor}``. What it explains is one number
per patient: what ``model.output`` declares (log hazard, risk score of discrete time, log-probability of the predicted class,
value), or ``risk(output)`` (`Risk`). Every picture is ``plot_*(arrays, *, ax=None)``: it draws on the axes it is
given or in a figure of its own, and returns the axes (`ax.figure.savefig(path)`). Pictures need matplotlib
(``pip install healnet[plots]``) and never touch pyplot.

======================== ================================================ ==============================================
score                    tells                                            does not tell
======================== ================================================ ==============================================
`mean_attention`         where the model looked                           whether it mattered, or in which direction
`rollout`                the same through all layers and latents, and     the same; it takes half of every update for the
                         each modality's share                            old state, whatever the model really kept
`gradient_attention`     whether looking there raised or lowered the      what the token's own numbers did
                         risk, to first order
`gradient_x_input`       direction and size for every raw number, behind  anything far from here: 0 where the model is
                         any encoder                                      saturated
`integrated_gradients`   the same along a line from a baseline; sums to   anything without a baseline: another one gives
                         risk - risk(baseline)                            other scores
`occlude`                exactly how the risk changes without a block     what others repeat: of three patches that say
                                                                          the same, losing one changes little
`activation_pattern`     which features go along with the answer, also    whether the model reads the feature at all
                         where correlated features share the credit
`shapley_modalities`     what each modality adds, fairly over all orders  what happens inside a modality
======================== ================================================ ==============================================

Attention is not by itself an explanation: a token that is looked at need not change the answer, and different attention can
give the same answer (Jain and Wallace 2019, arXiv 1902.10186). `faithfulness` says which score follows your model. With
`OmicEncoder(tokens=k)` or "vector" a token is a mixture of all genes, and attention cannot rank them; the others can.

A `Stream` is explained in pieces by `attention_scores`, `gradient_x_input(per_token=True)`, `occlude(groups=...)`,
`faithfulness`, `occlude_modalities` and `shapley_modalities`; `write_scores` puts the first two into a file where they do
not fit in memory either.

Planted truth: simulated cohorts in which a known 5% of the patches, or of the genes, carry the risk
(`tests/explain/test_planted.py`). AUROC with which the size of each score finds them in new patients, mean of three models;
patches within each patient, genes by their mean over patients:

======================== ======= ==================== =======================
score                    patches genes, a token each  genes, 4 learned tokens
======================== ======= ==================== =======================
`mean_attention`           0.980                0.999                       -
`rollout`                  0.981                0.999                       -
`gradient_attention`       0.894                1.000                       -
`gradient_x_input`         0.858                1.000                   1.000
`integrated_gradients`     0.889                1.000                   1.000
`occlude`                  0.863                1.000                   1.000
`activation_pattern`           -                1.000                   1.000
======================== ======= ==================== =======================

On the patches attention does best because they bear a mark, which is how such a model finds them; the scores that weigh an
effect rank the patches of an average patient low, for they neither raise nor lower the risk.

Real genes are correlated, and a model may read any of those that say the same. In mini-ACC, FOXM1 and CDK1 alone predict
survival with C = 0.82 and 0.84. Their ranks among its 198 RNA genes, over five folds of held-out patients
(`examples/explain_mini_acc.py`, 20 models, C = 0.86): `activation_pattern` 7 and 4; `rollout` 9 and 28; `occlude` 34 and 50;
`integrated_gradients` 38 and 37; `gradient_x_input` 41 and 66; `mean_attention` 53 and 44; `gradient_attention` 116 and 118
(the attention ones with a token for each gene).
"""

from healnet.explain.activation_pattern import activation_pattern
from healnet.explain.attention_scores import attention_scores, gradient_attention, mean_attention, rollout
from healnet.explain.faithfulness import Faithfulness, faithfulness, plot_faithfulness
from healnet.explain.genes import gene_set_scores, plot_gene_bars, rank_genes, top_k_stability
from healnet.explain.gradients import gradient_x_input, input_gradients
from healnet.explain.integrated_gradients import integrated_gradients
from healnet.explain.occlusion import group_by_square, occlude, occlude_modalities
from healnet.explain.pictures.contact_sheet import TopPatch, plot_contact_sheet, top_patches
from healnet.explain.pictures.geojson import regions_to_geojson, to_geojson
from healnet.explain.pictures.graph_overlay import plot_graph_overlay
from healnet.explain.pictures.patient_report import PatientReport, patient_report
from healnet.explain.pictures.pyramid import to_pyramid_tiff
from healnet.explain.pictures.score_map import ScoreRaster, score_map
from healnet.explain.pictures.slide_heatmap import plot_slide_heatmap, plot_slide_panels
from healnet.explain.pictures.volumes import (
    plot_image_overlay,
    plot_orthogonal_slices,
    to_nifti,
    voxel_scores,
)
from healnet.explain.risk import Risk
from healnet.explain.score_file import write_scores
from healnet.explain.shapley import (
    ModalityShapley,
    plot_contribution_bars,
    shapley_modalities,
    shapley_values,
)

__all__ = [
    "Faithfulness",
    "ModalityShapley",
    "PatientReport",
    "Risk",
    "ScoreRaster",
    "TopPatch",
    "activation_pattern",
    "attention_scores",
    "faithfulness",
    "gene_set_scores",
    "gradient_attention",
    "gradient_x_input",
    "group_by_square",
    "input_gradients",
    "integrated_gradients",
    "mean_attention",
    "occlude",
    "occlude_modalities",
    "patient_report",
    "plot_contact_sheet",
    "plot_contribution_bars",
    "plot_faithfulness",
    "plot_gene_bars",
    "plot_graph_overlay",
    "plot_image_overlay",
    "plot_orthogonal_slices",
    "plot_slide_heatmap",
    "plot_slide_panels",
    "rank_genes",
    "regions_to_geojson",
    "rollout",
    "score_map",
    "shapley_modalities",
    "shapley_values",
    "to_geojson",
    "to_nifti",
    "to_pyramid_tiff",
    "top_k_stability",
    "top_patches",
    "voxel_scores",
    "write_scores",
]
