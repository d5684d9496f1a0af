"""Masks per second, with the embedding cache on and off, and the share of decoding in a scored test.

    python benchmarks/segmentation.py [--sam2 DIR] [--images 40] [--run RUN --root DIR]

Measures the decoder on Mini AV-UIE pictures with three prompts each, then scores them through the task
(masks, J and F, PNG files), and times prompts from masks. With a run of the demo and its data root, also the
share that decoding has in a real test of the sets with masks. Prints one JSON object; times are medians of
rounds, CPU seconds of one thread, so that other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crab_lightning.mini.pretrain.sam2 import draw_case
from crab_lightning.mini.world.scenes import rng_for
from crab_lightning.segmentation import MaskRequest, Sam2Decoder, prompt_of


def seconds(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return statistics.median(times)


def scored(decoder: Sam2Decoder, cases: list[Any], folder: Path) -> tuple[float, float]:
    """Return wall seconds of scoring all answers, and those spent in the decoder."""
    from PIL import Image

    from crab_lightning.structures import DatasetSpec, Prediction, Sample
    from crab_lightning.tasks import Segmentation

    inside = 0.0
    decode = decoder.decode

    def timed(requests: Any) -> Any:
        nonlocal inside
        began = time.process_time()
        masks = decode(requests)
        inside += time.process_time() - began
        return masks

    decoder.decode = timed  # type: ignore[method-assign]
    task, spec = Segmentation(mask_decoder=decoder), DatasetSpec(task="segmentation", layout="s4")
    predictions = []
    for i, (frame, masks, _) in enumerate(cases):
        place = folder / "AVUIE_2" / "s4" / "AVS" / f"clip{i}"
        for name in ("frames", "labels_rgb"):
            (place / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(place / "frames" / "0.png")
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(place / "labels_rgb" / "0.png")
        prompt = prompt_of(masks[0])
        assert prompt is not None
        text = f"[{','.join(str(int(v)) for v in prompt.box_xyxy_px or ())}]" + "".join(
            f"[{int(x)},{int(y)}]" for x, y in prompt.points_xy_px
        )
        fields = {"mask_candidates": (place / "labels_rgb" / "0.png",)}
        image = place / "frames" / "0.png"
        sample = Sample(f"s4/{i}", "s4", "segmentation", "test", str(i), images=(image,), fields=fields)
        predictions.append(Prediction(sample, text))
    from crab_lightning.evaluation.scores import DatasetScores

    scores = DatasetScores("s4", task, spec)
    scores.folder = folder / "run"
    began = time.process_time()
    for first in range(0, len(predictions), 8):
        scores.prepare(predictions[first : first + 8])
        for prediction in predictions[first : first + 8]:
            scores.add(prediction)
    return time.process_time() - began, inside


def share_in_a_test(run: Path, root: Path, sam2: str) -> dict[str, float]:
    """Return CPU seconds of a test of three sets with masks, and the share of them spent in the decoder."""
    from crab_lightning.commands import main as command

    inside, whole = 0.0, Sam2Decoder.decode

    @wraps(whole)  # the config's parser compares signatures
    def timed(self: Sam2Decoder, requests: Any) -> Any:
        nonlocal inside
        began = time.process_time()
        masks = whole(self, requests)
        inside += time.process_time() - began
        return masks

    Sam2Decoder.decode = timed  # type: ignore[method-assign]
    Sam2Decoder(sam2, "cpu").decode([])  # loads
    inside = 0.0
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--config", "demo.yaml", "--data.root", str(root), "--ckpt_path", str(run)]
        words += ["--run.folder", scratch, "--only", "s4,ms3,ref_avs", "--trainer.callbacks", "[]"]
        # In this process, so that all of its time is seen.
        status = command(["test", *words, "--data.num_workers", "0", "--evaluator.print_table", "false"])
        answers = json.loads((Path(scratch) / "metrics.json").read_text())["test"]["datasets"].values()
    if status:
        raise SystemExit(status)
    total = time.process_time() - began
    return {
        "test_answers": sum(entry["counts"]["scored"] for entry in answers),
        "test_cpu_s": round(total, 1),
        "decoding_share_of_test": round(inside / total, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sam2", default="mini_sam2")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=Path, help="run folder of the demo")
    parser.add_argument("--root", type=Path, help="its data root")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [draw_case(rng_for(0, "benchmark", i), 3, missed=0.0) for i in range(args.images)]
    requests = [
        MaskRequest(torch.from_numpy(frame).permute(2, 0, 1).contiguous(), prompt)
        for frame, _, prompts in cases
        for prompt in prompts
    ]
    Sam2Decoder(args.sam2, "cpu").decode(requests[:1])  # loads
    figures: dict[str, Any] = {"sam2": args.sam2, "images": args.images, "masks": len(requests)}

    def one_by_one(cache_size: int) -> Callable[[], Any]:
        decoder = Sam2Decoder(args.sam2, "cpu", cache_size=cache_size)
        return lambda: [decoder.decode([request]) for request in requests]

    for name, run in (
        ("one_by_one_cache_off", lambda: one_by_one(0)()),
        ("one_by_one_cache_on", lambda: one_by_one(16)()),
        ("batches_of_8", lambda: Sam2Decoder(args.sam2, "cpu").decode(requests)),
    ):
        figures[f"masks_per_s_{name}"] = round(len(requests) / seconds(run, args.rounds), 1)
    with tempfile.TemporaryDirectory() as scratch:
        total, inside = scored(Sam2Decoder(args.sam2, "cpu"), cases, Path(scratch))
    figures["scored_answers_per_s"] = round(len(cases) / total, 1)
    figures["decoding_share_of_scoring"] = round(inside / total, 3)
    masks = [mask for _, several, _ in cases for mask in several]
    figures["prompts_from_masks_per_s"] = round(
        len(masks) / seconds(lambda: [prompt_of(mask) for mask in masks], args.rounds), 1
    )
    if args.run is not None:
        figures |= share_in_a_test(args.run, args.root, args.sam2)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
