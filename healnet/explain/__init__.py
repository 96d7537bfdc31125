"""See what a model saw: scores per patch, gene and voxel; whether to trust them; heat maps, QuPath files, rankings, reports.

Start from `healnet.explain.scores`, whose docstring says what each kind of score can and cannot tell. Functions that ask a
model come first and give tensors; those that draw or write take arrays only. Pictures need matplotlib (``pip install
healnet[plots]``), take axes or a figure and return them, and never touch pyplot.
"""

from healnet.explain.attention_file import write_attention
from healnet.explain.contact import TopPatch, contact_sheet, top_patches
from healnet.explain.genes import gene_bars, gene_set_scores, rank_genes, top_k_stability
from healnet.explain.geojson import to_geojson
from healnet.explain.gradients import gradient_x_input, input_gradients
from healnet.explain.graphs import graph_overlay
from healnet.explain.heatmap import score_map, slide_heatmap
from healnet.explain.integrated import integrated_gradients
from healnet.explain.occlusion import occlude, occlude_modalities, tiles_of
from healnet.explain.patterns import activation_pattern
from healnet.explain.pyramid import to_pyramid_tiff
from healnet.explain.reports import report
from healnet.explain.scores import attention_scores, gradient_attention, mean_attention, rollout
from healnet.explain.shapley import ModalityShapley, contribution_bars, shapley_modalities, shapley_values
from healnet.explain.trust import Faithfulness, faithfulness, faithfulness_curves
from healnet.explain.volumes import image_overlay, orthogonal_slices, to_nifti, voxel_scores

__all__ = [
    "Faithfulness",
    "ModalityShapley",
    "TopPatch",
    "activation_pattern",
    "attention_scores",
    "contact_sheet",
    "contribution_bars",
    "faithfulness",
    "faithfulness_curves",
    "gene_bars",
    "gene_set_scores",
    "gradient_attention",
    "gradient_x_input",
    "graph_overlay",
    "image_overlay",
    "input_gradients",
    "integrated_gradients",
    "mean_attention",
    "occlude",
    "occlude_modalities",
    "orthogonal_slices",
    "rank_genes",
    "report",
    "rollout",
    "score_map",
    "shapley_modalities",
    "shapley_values",
    "slide_heatmap",
    "tiles_of",
    "to_geojson",
    "to_nifti",
    "to_pyramid_tiff",
    "top_k_stability",
    "top_patches",
    "voxel_scores",
    "write_attention",
]
