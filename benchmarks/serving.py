"""Load on `serve`: many clients at once, requests that are broken, slow or cut off, and good ones.

    python benchmarks/serving.py --requests 200 --clients 8

The server runs in a process of its own on the loopback address, with the mini model and adapters of random
values, so that answers differ. Each good answer has to be the one that the model gives alone. The script
prints counts, times and the server's memory, and ends with status 1 if any answer is wrong.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import crab_lightning
from crab_lightning.adapters import AdapterConfig
from crab_lightning.media import MediaLimits, write_audio, write_video
from crab_lightning.models import OmniModule
from crab_lightning.serving.request_media import load_example
from crab_lightning.serving.requests import read_request

BASE = Path(crab_lightning.__file__).parent / "assets" / "mini_omni"
CLIPS, TOKENS = 5, 16
SHARES = {"good": 55, "streamed": 20, "slow": 8, "broken": 9, "cut off": 8}
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"


def make_model() -> Any:
    """Return the mini model with adapters of random values, the same in every process."""
    torch.manual_seed(0)
    model = OmniModule(str(BASE), adapter=AdapterConfig(rank=4), dtype="float32", max_new_tokens=TOKENS)
    model.configure_model()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def serve(port: int) -> None:
    """Serve the model until the process is ended."""
    import uvicorn

    from crab_lightning.serving.app import ServerOptions, make_app
    from crab_lightning.serving.worker import Worker

    model = make_model()
    options = ServerOptions("mini", max_body_mb=2.0, max_new_tokens=TOKENS, timeout_s=120)
    uvicorn.run(
        make_app(model, Worker(model, 8), MediaLimits(), options, "torch"), port=port, log_level="error"
    )


def bodies(folder: Path) -> list[dict[str, Any]]:
    """Return the good requests: every question about every clip."""
    rng, made = np.random.default_rng(0), []
    for number in range(CLIPS):
        shade = rng.integers(0, 255, (8, 4, 4, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        write_video(folder / "clip.mp4", torch.from_numpy(shade), fps=8.0)
        tone = np.sin(np.arange(32_000) * 0.02 * (number + 1)) * 0.3
        write_audio(folder / "clip.wav", torch.from_numpy(tone).float())
        video, sound = (
            base64.b64encode((folder / f"clip.{end}").read_bytes()).decode() for end in ("mp4", "wav")
        )
        for question in ("What happens?", "What is heard?", "Which is it?", "Please describe this video."):
            content = [
                {"type": "text", "text": "This is a video and an audio:"},
                {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video}"}},
                {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
                {"type": "text", "text": question},
            ]
            made.append({"model": "mini", "messages": [{"role": "user", "content": content}]})
    return made


def broken(body: dict[str, Any], rng: random.Random) -> bytes:
    """Return a request that has to be refused."""
    text = json.dumps(body)
    return rng.choice(
        [
            text[:-20],
            text.replace("data:video/mp4;base64,", "data:video/mp4;base64,@"),
            text.replace("data:video/mp4;base64,", "http://127.0.0.1/"),
            text.replace(
                '"video_url": {"url": "data:video/mp4;base64,', '"video_url": {"url": "data:;base64,AAAA'
            ),
            text.replace('"model": "mini"', '"model": "other"'),
            text.replace('"type": "text"', '"type": ["text"]'),
            text + " " * 2_100_000,
        ]
    ).encode()


def ask(kind: str, port: int, body: dict[str, Any], rng: random.Random) -> tuple[int, str, float]:
    """Send one request and return status, answer and seconds; status 0 for one that was cut off."""
    began = time.perf_counter()
    if kind == "cut off":
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.sendall(HEAD.format(len(data)).encode())
            sock.sendall(data[: rng.choice([1, len(data) // 2, len(data)])])
            time.sleep(rng.uniform(0, 0.3))
        return 0, "", time.perf_counter() - began
    data = (
        broken(body, rng) if kind == "broken" else json.dumps(body | {"stream": kind == "streamed"}).encode()
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders()
    size = -(-len(data) // 10) if kind == "slow" else len(data)
    for start in range(0, len(data), size):
        connection.send(data[start : start + size])
        time.sleep(0.1 if kind == "slow" else 0)
    reply = connection.getresponse()
    said = reply.read().decode()
    connection.close()
    if reply.status != 200:
        return reply.status, said, time.perf_counter() - began
    if kind == "streamed":
        chunks = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        answer = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    else:
        answer = json.loads(said)["choices"][0]["message"]["content"]
    return 200, answer, time.perf_counter() - began


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run the load and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200, help="number of requests")
    parser.add_argument("--clients", type=int, default=8, help="clients at the same time")
    parser.add_argument("--seed", type=int, default=0, help="chooses the kinds of the requests")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return 0
    port, rng = free_port(), random.Random(args.seed)
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        model = make_model()
        with tempfile.TemporaryDirectory() as folder:
            asked = bodies(Path(folder))
        expected = []
        for body in asked:
            example = load_example(read_request(body), model.geometry, MediaLimits())
            batch = model.processor.collate([model.processor.encode(example)])
            expected.append(model.generate(batch)[0].text)
        for _ in range(600):
            if server.poll() is not None:
                raise RuntimeError("the server has ended")
            try:
                ask("good", port, asked[0], rng)
                break
            except OSError:
                time.sleep(0.1)
        kinds = rng.choices(list(SHARES), list(SHARES.values()), k=args.requests)
        jobs = [(kind, number % len(asked), random.Random(number)) for number, kind in enumerate(kinds)]
        before, began = memory_mb(server.pid), time.perf_counter()
        half = None
        replies = []
        with ThreadPoolExecutor(args.clients) as pool:
            for reply in pool.map(lambda job: ask(job[0], port, asked[job[1]], job[2]), jobs):
                replies.append(reply)
                if len(replies) == args.requests // 2:
                    half = memory_mb(server.pid)
        wall, after = time.perf_counter() - began, memory_mb(server.pid)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(100):
            connection.request("GET", "/health")
            health = json.loads(connection.getresponse().read())
            if (health["writing"], health["waiting"]) == (0, 0):
                break
            time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(30)
    wrong, statuses = 0, Counter((job[0], reply[0]) for job, reply in zip(jobs, replies, strict=True))
    times = []
    for (kind, number, _), (status, said, seconds) in zip(jobs, replies, strict=True):
        if kind in ("good", "streamed", "slow"):
            times.append(seconds)
            wrong += (status, said) != (200, expected[number])
        elif kind == "broken":
            wrong += not 400 <= status < 500
    for (kind, status), count in sorted(statuses.items()):
        print(f"{kind:9} status {status:3}: {count}")
    print(f"{len(set(expected))} different answers to {len(expected)} questions; wrong or mixed up: {wrong}")
    middle, longest = statistics.median(times), max(times)
    print(f"{len(times)} good answers in {wall:.1f} s: median {middle:.2f} s, longest {longest:.2f} s")
    print(f"memory of the server: {before:.0f} MB before, {half or 0:.0f} MB at half, {after:.0f} MB after")
    print(f"left over: {health}")
    return int(wrong > 0 or health["writing"] + health["waiting"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
