"""``routes``: record how the routers of a run weight the adapter heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crab_lightning.commands.file_arguments import folder_to_write
from crab_lightning.commands.help_text import CHECKPOINT, Options, positive, zero_or_more
from crab_lightning.files import replace_json


def run(words: Sequence[str]) -> None:
    """Record how the routers of a run weight the adapter heads.

    The weights are recorded in every layer, and separately for text, audio and visual tokens. The command
    writes routes.npz, routes.json, pictures, and tokens.html with the tokens that give each head the largest
    weights.

    Raises:
        ValueError: If the run has no routers, or its data have no samples of the split.
    """
    parser = Options("routes", run)
    add, switch = parser.option, parser.switch
    add("run", CHECKPOINT, Path, metavar="RUN")
    add("--split", "split whose samples are used", default="test", choices=["test", "val", "train"])
    add("--samples", "number of samples of each dataset", positive, 32)
    add("--batch-size", "number of samples in one forward pass", positive, 8)
    add("--texts", "number of samples of each dataset whose text is shown with shading", zero_or_more, 2)
    switch("--parquet", "also write the routes as routes.parquet (needs pyarrow)")
    add("--device", "cpu, cuda, ...; `auto` uses a GPU if there is one", default="auto")
    add("--out", "folder to write (default: routes/SPLIT in the run folder)", folder_to_write)
    args = parser.parse_args(words)
    from crab_lightning.data.manifests.layout import display_name
    from crab_lightning.inference.loading import load_run
    from crab_lightning.reports.tables import PlainTable, to_text
    from crab_lightning.runs.run_folder import find_checkpoint, results_folder, run_of
    from crab_lightning.studies.heads import heads_of
    from crab_lightning.studies.routes import TOKENS, recorded, routes_pictures, silhouette
    from crab_lightning.studies.run_data import data_of
    from crab_lightning.studies.token_routes import TokenLikes, likes_page

    checkpoint = find_checkpoint(args.run)
    folder = run_of(checkpoint)
    out = results_folder(checkpoint, args.out, "routes") / ("" if args.out else args.split)
    model, _ = load_run(checkpoint, device=args.device)
    if not heads_of(model.model):
        raise ValueError(
            f"{folder} has no adapters with a router, such as I-LoRA, and so no routes to record"
        )
    data = data_of(folder)
    data.processor = model.processor
    samples = [s for name in data.datasets for s in data.samples(args.split, name)[: args.samples]]
    if not samples:
        raise ValueError(f"{folder}: its data have no samples of split {args.split}")
    likes = TokenLikes(args.texts)
    found = recorded(model, data, samples, args.batch_size, likes)
    found.save(out / "routes.npz")
    if args.parquet:
        found.save_parquet(out / "routes.parquet")
    page = likes_page(
        likes, f"Tokens that the heads of {folder.name} prefer, in {len(samples)} {args.split} samples"
    )
    (out / "tokens.html").write_text(page, encoding="utf-8")
    scores = {by: silhouette(found.of_samples(), getattr(found, f"{by}s")) for by in ("dataset", "task")}
    content = {
        "samples": len(samples),
        "silhouette": scores,
        "mean": {
            kind: {k: v.tolist() for k, v in found.of_groups(found.datasets, kind).items()} for kind in TOKENS
        },
        "likeness": found.likeness.mean(0).tolist(),
        "likeness_by_layer": {str(k): v for k, v in found.cosines(found.depths.tolist()).items()},
        "likeness_by_projection": found.cosines(found.projections),
        "tokens": likes.best(),
        "entropy": {str(k): v for k, v in found.entropy().items()},
    }
    replace_json(out / "routes.json", content, indent=1)
    names = {key: display_name(key, str(row.layout)) for key, row in data.datasets.items()}
    named = replace(found, datasets=tuple(names[key] for key in found.datasets))
    for name, figure in routes_pictures(named).items():
        figure.savefig(out / f"{name}.png", dpi=130)
    heads = [f"head {i + 1}" for i in range(found.heads)]
    columns = ["dataset", "tokens", *heads]
    table = PlainTable(f"Mean routes of {len(samples)} {args.split} samples", columns, names=names)
    for kind in TOKENS:
        for name, row in found.of_groups(found.datasets, kind).items():
            table.add([name, kind, *(f"{value:.3f}" for value in row)])
    for by, score in scores.items():
        table.notes.append(f"Silhouette by {by}: {'–' if score is None else f'{score:.3f}'}.")
    print(to_text(table))
    print(f"\nWrote {out}")
