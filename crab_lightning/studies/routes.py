"""Record the routes of every sample in a finished run, and compare the heads with each other.

``routes.npz`` contains these arrays, for N samples, P routed layers (each is one projection) and n heads:

=============  ==================  =======================================================================
array          shape               contents
=============  ==================  =======================================================================
``ids``        ``(N,)``            sample ids; ``datasets`` and ``tasks`` have the same shape
``modules``    ``(P,)``            dotted names of the routed layers; ``depths`` are their layer numbers
``tokens``     ``(4,)``            kinds of tokens over which a mean is taken: all, text, audio, visual
``routes``     ``(N, 4, P, n)``    mean routes, float32; NaN if a sample has no tokens of the kind
``likeness``   ``(P, n, n)``       cosines between the B matrices of the heads
=============  ==================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crab_lightning.adapters.kinds.lora import adapter_layers
from crab_lightning.adapters.names import depth_of, unwrapped_name
from crab_lightning.structures import AUDIO, TEXT, VISUAL, Sample
from crab_lightning.studies.token_routes import TokenLikes, routed_pass, token_routes

TOKENS = ("all", "text", "audio", "visual")


@dataclass(frozen=True)
class Routes:
    """The recorded routes of a run.

    Args:
        ids: Ids of the N samples.
        datasets: Dataset of each sample.
        tasks: Task of each sample.
        modules: Dotted names of the P routed layers.
        depths: Layer number of each routed layer, ``(P,)``.
        routes: Mean routes ``(N, 4, P, n)`` over the kinds of tokens in ``TOKENS``; NaN if a sample has no
            tokens of the kind.
        likeness: Cosines ``(P, n, n)`` between the B matrices of the heads.
    """

    ids: tuple[str, ...]
    datasets: tuple[str, ...]
    tasks: tuple[str, ...]
    modules: tuple[str, ...]
    depths: NDArray[np.int64]
    routes: NDArray[np.float32]
    likeness: NDArray[np.float64]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return int(self.routes.shape[-1])

    def of_samples(self, tokens: str = "all") -> NDArray[np.float64]:
        """Return the mean route of each sample over all layers, ``(N, n)``.

        Args:
            tokens: Kind of tokens, one of ``TOKENS``.
        """
        mean: NDArray[np.float64] = self.routes[:, TOKENS.index(tokens)].astype(np.float64).mean(1)
        return mean

    def of_groups(self, by: Sequence[str], tokens: str = "all") -> dict[str, NDArray[np.float64]]:
        """Return the mean route ``(n,)`` of each group of samples.

        Args:
            by: The group of each sample.
            tokens: Kind of tokens, one of ``TOKENS``. Samples without such tokens are left out.
        """
        rows = self.of_samples(tokens)
        found = {}
        for name in dict.fromkeys(by):
            own = rows[[group == name for group in by]]
            own = own[np.isfinite(own).all(1)]
            if len(own):
                found[name] = own.mean(0)
        return found

    def entropy(self) -> dict[int, float]:
        """Return for each layer the mean entropy of the samples' routes, divided by its largest value."""
        routes = self.routes[:, 0].astype(np.float64)
        each = -(routes * np.log(np.clip(routes, 1e-12, None))).sum(-1) / np.log(max(self.heads, 2))
        return {int(d): float(each[:, self.depths == d].mean()) for d in sorted(set(self.depths))}

    def cosines(self, by: Sequence[Any]) -> dict[Any, float]:
        """Return the mean cosine between the B matrices of different heads, for each group of layers.

        Args:
            by: The group of each routed layer, such as ``depths`` or ``projections``.

        Returns:
            The mean cosines by group; empty with fewer than two heads.
        """
        apart = ~np.eye(self.heads, dtype=bool)
        if self.heads < 2:
            return {}
        return {
            name: float(self.likeness[[group == name for group in by]][:, apart].mean())
            for name in dict.fromkeys(by)
        }

    @property
    def projections(self) -> tuple[str, ...]:
        """Name of the projection of each routed layer, such as ``q_proj``."""
        return tuple(name.rpartition(".")[2] for name in self.modules)

    def save_parquet(self, path: Path) -> None:
        """Write the routes as one Parquet table, for pandas, Polars or DuckDB.

        The table has one row for each sample, kind of tokens and routed layer. Its columns are ``id``,
        ``dataset``, ``task``, ``tokens``, ``module``, ``depth`` and ``head_1`` to ``head_n``. There is no row
        for a kind of tokens that a sample does not have.

        Args:
            path: The file.

        Raises:
            ImportError: If the package pyarrow is missing.
        """
        try:
            import pyarrow as pa
            from pyarrow.parquet import write_table
        except ImportError as err:
            raise ImportError(
                "Parquet needs the package pyarrow: pip install 'crab_lightning[parquet]'"
            ) from err
        n, kinds, p, heads = self.routes.shape
        flat = self.routes.reshape(-1, heads)
        there = np.isfinite(flat).all(1)
        sample, kind, layer = (i.reshape(-1)[there] for i in np.indices((n, kinds, p)))
        names = {"id": self.ids, "dataset": self.datasets, "task": self.tasks}
        table: dict[str, Any] = {key: np.array(value)[sample] for key, value in names.items()}
        table |= {"tokens": np.array(TOKENS)[kind], "module": np.array(self.modules)[layer]}
        table |= {"depth": self.depths[layer]}
        table |= {f"head_{i + 1}": flat[there, i] for i in range(heads)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(pa.table(table), path)

    def save(self, path: Path) -> None:
        """Write the routes to a NumPy file such as ``routes.npz``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        held: dict[str, Any] = {
            name: np.array(getattr(self, name)) for name in ("ids", "datasets", "tasks", "modules")
        }
        np.savez_compressed(
            path,
            tokens=np.array(TOKENS),
            depths=self.depths,
            routes=self.routes,
            likeness=self.likeness,
            **held,
        )

    @classmethod
    def load(cls, path: Path) -> Routes:
        """Read a file that :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            names = [tuple(map(str, held[name])) for name in ("ids", "datasets", "tasks", "modules")]
            return cls(
                names[0], names[1], names[2], names[3], held["depths"], held["routes"], held["likeness"]
            )


@torch.no_grad()
def recorded(
    module: Any,
    data: Any,
    samples: Sequence[Sample],
    batch_size: int = 8,
    likes: TokenLikes | None = None,
) -> Routes:
    """Record the routes of samples in one forward pass over each prompt and, if there is one, its target.

    Args:
        module: An ``AVModule`` in evaluation mode.
        data: The data module of the run.
        samples: The samples; samples of a test split have no target.
        batch_size: Number of samples in one forward pass.
        likes: Collects the routes of text tokens; by default, these are not collected.

    Raises:
        ValueError: If the model has no routed layer.
    """
    rows: list[NDArray[np.float32]] = []
    names: list[str] = []
    for start in range(0, len(samples), batch_size):
        part = list(samples[start : start + batch_size])
        taught = all(sample.target is not None for sample in part)
        loaded = data.dataset(part, with_target=taught)
        batch = data.processor.collate([loaded[i] for i in range(len(part))]).to(module.device)
        found = routed_pass(module, batch)
        names = list(found)
        places = module.places(batch)
        masks = [places.present, *(places.present & (places.modality == m) for m in (TEXT, AUDIO, VISUAL))]
        weights = torch.stack([m.float() / m.sum(1, keepdim=True).clamp(min=1) for m in masks])
        absent = torch.stack([~m.any(1) for m in masks], 1)
        table = torch.stack(
            [torch.einsum("btn,kbt->bkn", routes, weights) for routes in found.values()], 2
        )  # (B, 4, P, n)
        table[absent] = float("nan")
        rows.append(table.cpu().numpy().astype(np.float32))
        if likes is not None:
            for sample, one in zip(part, token_routes(module, batch, found), strict=True):
                likes.add(sample.id, sample.dataset, one)
    layers = {unwrapped_name(name): layer for name, layer in adapter_layers(module.model).items()}
    return Routes(
        tuple(s.id for s in samples),
        tuple(s.dataset for s in samples),
        tuple(s.task for s in samples),
        tuple(names),
        np.array([depth_of(name) for name in names]),
        np.concatenate(rows),
        np.stack([head_likeness(layers[name].lora_B, layers[name].heads) for name in names]),
    )


def head_likeness(b: Tensor, heads: int) -> NDArray[np.float64]:
    """Return the cosines between the B matrices of the heads ``(n, n)``; 0 for a head that is zero.

    Args:
        b: B matrices ``(d, n*r)`` of all heads; head i is in columns ``i*r`` to ``(i+1)*r - 1``.
        heads: Number of heads n.
    """
    flat = torch.stack([part.reshape(-1) for part in b.detach().double().cpu().chunk(heads, dim=1)])
    lengths = flat.norm(dim=1, keepdim=True)
    unit = torch.where(lengths > 0, flat / lengths.clamp(min=1e-300), torch.zeros_like(flat))
    cosines: NDArray[np.float64] = (unit @ unit.t()).clamp(-1, 1).numpy()
    return cosines


def silhouette(points: NDArray[np.float64], groups: Sequence[str]) -> float | None:
    """Return the mean silhouette of grouped points.

    Source: Rousseeuw, Journal of Computational and Applied Mathematics, 1987. The only point of a group has
    the silhouette 0.

    Args:
        points: Points ``(N, dimensions)``.
        groups: The group of each point.

    Returns:
        ``None`` if there is only one group, or if every group has only one point.
    """
    from scipy.spatial.distance import cdist

    kinds = list(dict.fromkeys(groups))
    member = np.array([[group == kind for kind in kinds] for group in groups])
    sizes = member.sum(0)
    if len(kinds) < 2 or sizes.max() < 2:
        return None
    sums = cdist(points, points) @ member
    own = member.argmax(1)
    index = np.arange(len(points))
    inside = sums[index, own] / np.maximum(sizes[own] - 1, 1)
    others = sums / sizes
    others[index, own] = np.inf
    nearest = others.min(1)
    scores = np.where(
        sizes[own] > 1, (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-300), 0.0
    )
    return float(scores.mean())


def routes_pictures(found: Routes) -> dict[str, Any]:
    """Draw the recorded routes.

    Args:
        found: The routes.

    Returns:
        Matplotlib figures: ``pairs-by-dataset`` and ``pairs-by-task`` (the routes of every two heads),
        ``activation`` (mean routes of each dataset), and ``likeness`` (cosines between heads, and entropy).
    """
    from itertools import combinations

    from crab_lightning.studies.figures import figure_of

    pictures: dict[str, Any] = {}
    rows = found.of_samples()
    for by, groups in (("dataset", found.datasets), ("task", found.tasks)):
        pairs = list(combinations(range(found.heads), 2))
        kinds = list(dict.fromkeys(groups))
        figure = figure_of(3.2 * max(len(pairs), 1) + 2.2, 3.2)
        score = silhouette(rows, groups)
        figure.suptitle(
            f"Mean routes by {by}; silhouette {'–' if score is None else f'{score:.3f}'}", fontsize=10
        )
        for axes, (a, b) in zip(np.atleast_1d(figure.subplots(1, max(len(pairs), 1))), pairs, strict=False):
            for i, kind in enumerate(kinds):
                own = rows[[group == kind for group in groups]]
                axes.scatter(own[:, a], own[:, b], s=14, marker="osD^vP*X<>"[i % 10], label=kind, alpha=0.75)
            axes.set_xlabel(f"weight of head {a + 1}", fontsize=8)
            axes.set_ylabel(f"weight of head {b + 1}", fontsize=8)
            axes.tick_params(labelsize=7)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=6, loc="outside right center")
        pictures[f"pairs-by-{by}"] = figure
    means = found.of_groups(found.datasets)
    table = np.stack(list(means.values()))
    figure = figure_of(2.6 + 1.1 * found.heads, 1.2 + 0.26 * len(means))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, title in (
        (left, table, "mean weight of each head"),
        (right, table / table.mean(0) - 1, "fraction above or below the mean of the head"),
    ):
        spread = max(float(np.abs(values - (1 / found.heads if axes is left else 0)).max()), 0.01)
        middle = 1 / found.heads if axes is left else 0.0
        axes.imshow(values, cmap="PuOr", vmin=middle - spread, vmax=middle + spread, aspect="auto")
        for y, x in np.ndindex(values.shape):
            colour = "white" if abs(values[y, x] - middle) > 0.65 * spread else "black"
            axes.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=6, color=colour)
        axes.set_title(title, fontsize=8)
        axes.set_xticks(range(found.heads), [f"head {i + 1}" for i in range(found.heads)], fontsize=7)
    left.set_yticks(range(len(means)), list(means), fontsize=7, parse_math=False)
    pictures["activation"] = figure
    figure = figure_of(9.2, 2.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=[2, 3, 3])
    overall = found.likeness.mean(0)
    left.imshow(overall, cmap="PuOr_r", vmin=-1, vmax=1)
    for y, x in np.ndindex(found.heads, found.heads):
        colour = "white" if abs(overall[y, x]) > 0.65 else "black"
        left.text(x, y, f"{overall[y, x]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    numbers = [str(i + 1) for i in range(found.heads)]
    left.set_xticks(range(found.heads), numbers, fontsize=7)
    left.set_yticks(range(found.heads), numbers, fontsize=7)
    left.set_title("cosine of B of every two heads", fontsize=8)
    order = sorted(set(found.depths.tolist()))
    if by_layer := found.cosines(found.depths.tolist()):
        middle.plot(order, [by_layer[d] for d in order], "o-", color="#0072b2", label="cosine of B")
    middle.plot(order, [found.entropy()[d] for d in order], "s--", color="#d55e00", label="entropy of routes")
    middle.set_xlabel("layer", fontsize=8)
    middle.xaxis.get_major_locator().set_params(integer=True)
    middle.legend(fontsize=7)
    by_projection = found.cosines(found.projections)
    right.barh(list(by_projection), list(by_projection.values()), color="#0072b2")
    right.axvline(0, color="#555555", linewidth=0.8)
    right.set_title("cosine of B by projection", fontsize=8)
    for axes in (middle, right):
        axes.tick_params(labelsize=7)
    pictures["likeness"] = figure
    return pictures
