"""``build review``: let people check a sample of the training texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crab_lightning.commands.help_text import Options, add_selection, port, positive


def run(words: Sequence[str]) -> None:
    """Serve a web page on which people accept, reject or correct the texts of training rows.

    The rows are a random sample. Only this machine can open the page. Every decision is stored immediately.
    Start the same command again to continue the same review. --apply writes the decisions to the manifests.

    Raises:
        FileNotFoundError: If ``--summary`` or ``--apply`` is given and there is no review yet.
        ImportError: If the extra ``serve`` is not installed.
    """
    parser = Options("build review", run)
    add, switch = parser.option, parser.switch
    add_selection(parser, "keys of data.datasets (default: all that are found)")
    add("--sample", "number of rows in the sample, the same number from each dataset", positive, 200)
    add("--seed", "seed of the random choice of the rows", int, 0)
    add(
        "--database",
        "SQLite file of the review (default: ROOT/review/review.sqlite)",
        Path,
        metavar="FILE",
    )
    add("--port", "port of the page on 127.0.0.1", port, 8765)
    switch("--summary", "print the summary and end")
    switch("--apply", "write the decisions to the manifests and end")
    add("--reviewer", "for --apply: use only the decisions of this reviewer", metavar="NAME")
    args = parser.parse_args(words)
    from crab_lightning.builder.review import ReviewStore, apply_verdicts, draw_sample, kappas, rates
    from crab_lightning.configuration.sections import tasks_and_datasets
    from crab_lightning.data.manifests.files import manifest_path

    tasks, datasets = tasks_and_datasets(args.config, args.datasets)
    if args.datasets is None:
        datasets = {n: s for n, s in datasets.items() if manifest_path(args.root, n, s, "train").is_file()}
    path = args.database or args.root / "review" / "review.sqlite"
    if (args.summary or args.apply) and not path.is_file():
        raise FileNotFoundError(f"there is no review at {path}; start one without --summary and --apply")
    store = ReviewStore(path)
    if args.apply:
        for name, counts in apply_verdicts(args.root, tasks, datasets, store, args.reviewer).items():
            told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
            print(f"{name}: {told}; wrote {manifest_path(args.root, name, datasets[name], 'train')}")
        return
    if args.summary:
        said = list(store.verdicts().values())
        for rate in rates(store.items(), said):
            print(
                f"{rate.dataset:<12}{rate.counts.total():>6,} decisions, {100 * rate.rate:.1f} % "
                f"accepted (95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f} %)"
            )
        for one, other, count, kappa in kappas(said):
            print(f"{one} and {other}: Cohen's kappa {kappa:.2f} over {count:,} common rows")
        return
    try:
        from crab_lightning.builder.review import make_app
        from crab_lightning.serving.listening import listen, serve_on
    except ImportError as err:
        raise ImportError("`build review` needs more packages: pip install 'crab_lightning[serve]'") from err
    settings = {"sample": args.sample, "seed": args.seed, "datasets": sorted(datasets)}
    store.begin(settings, lambda: draw_sample(args.root, tasks, datasets, args.sample, args.seed))
    listener = listen("127.0.0.1", args.port)
    print(f"Review at http://127.0.0.1:{listener.getsockname()[1]}/ (Ctrl-C stops it)", flush=True)
    serve_on(listener, make_app(store))
