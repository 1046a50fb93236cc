"""Pretrain the embedded backbone `paretune_tiny` on drawings from paretune's own generator.

    python scripts/pretrain_embedded.py --minutes 80 --threads 1 --out runs/pretrain

The schedule follows the wall clock, so that a run on a slow or shared machine still ends its cosine in time. For the
first part of the run only some patches are computed, those that the shape touches first; the rest of the run sees all.
Small heads that predict the shape's pose help at first and are thrown away. Call it again with the same --out to
resume; add --export-only to write the weights of the latest checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from drawn_classes import CLASSES, VERSION, DrawnClasses
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURE = {
    "img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 12, "num_heads": 3, "mlp_ratio": 4.0, "qkv_bias": True,
    "class_token": True, "global_pool": "token", "num_classes": CLASSES,
}  # fmt: skip
ASSET = Path(__file__).resolve().parents[1] / "src/paretune/assets/paretune_tiny.safetensors"
TRAIN_SEED, HELD_OUT_SEED = 1, 999_983


class Learner(nn.Module):
    """The backbone with its class head, and a pose head that is left out of the export."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer(**ARCHITECTURE)
        self.pose = nn.Linear(ARCHITECTURE["embed_dim"], 4)
        with torch.no_grad():
            self.vit.pos_embed[0, 1:] = wave_positions(ARCHITECTURE["embed_dim"], 8) * 0.2

    def forward(self, images: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return class logits and pose of (B, 3, 32, 32) images, computed from the patches (B, K) in `keep` or all."""
        vit = self.vit
        tokens = vit.patch_embed(images) + vit.pos_embed[:, 1:]
        if keep is not None:
            tokens = tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
        features = vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))[:, 0]
        return vit.head(features), self.pose(features)


def wave_positions(width: int, side: int) -> Tensor:
    """Sine and cosine position codes of a side x side grid, (side * side, width): a better start than noise."""
    frequency = torch.exp(-math.log(100) * torch.arange(width // 4) / (width // 4)) * math.pi
    place = torch.arange(side).float()
    angles = place.unsqueeze(1) * frequency
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = code.repeat_interleave(side, 0), code.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


def normalise(images: Tensor) -> Tensor:
    """Turn (B, 32, 32, 3) uint8 into (B, 3, 32, 32) floats in [-1, 1], i.e. mean 0.5 and spread 0.5."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def choose_patches(touched: Tensor, count: int) -> Tensor:
    """Pick `count` patches per image, (B, count): those that the shape touches first, then random ones."""
    flat = touched.flatten(1).float()
    return (flat + torch.rand_like(flat)).topk(count, dim=1).indices


def optimizers_for(learner: Learner, lr: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, which needs far fewer images here than AdamW, and AdamW for all else."""
    matrices = [p for p in learner.vit.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in learner.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, weight_decay=decay, betas=(0.9, 0.98), fused=True),
    ]


def rate_at(progress: float, warm_up: float = 0.02) -> float:
    """Learning-rate factor at `progress` in [0, 1]: linear warm-up, then a cosine to zero."""
    if progress < warm_up:
        return max(progress, 1e-4) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1 - warm_up))))


@torch.inference_mode()
def held_out_accuracy(learner: Learner, count: int = 2000) -> float:
    """Top-1 accuracy on drawings that training never sees, at full difficulty and with all patches."""
    learner.eval()
    source, right = DrawnClasses(HELD_OUT_SEED), 0
    for _ in range(count // 100):
        drawn = source.batch(100)
        right += int((learner(normalise(drawn.images))[0].argmax(1) == drawn.labels).sum())
    learner.train()
    return right / count


def save_checkpoint(path: Path, learner: Learner, optimizers: list[torch.optim.Optimizer], progress: dict) -> None:
    """Write weights, optimizer moments and progress as safetensors, replacing the file in one move."""
    tensors = {f"model.{name}": value for name, value in learner.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{parameter}.{name}": torch.as_tensor(v) for name, v in moments.items()}
    partial = path.with_suffix(".partial")
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, partial, {"progress": json.dumps(progress)})
    partial.replace(path)


def load_checkpoint(path: Path, learner: Learner, optimizers: list[torch.optim.Optimizer]) -> dict:
    """Restore what save_checkpoint wrote and return its progress."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
    prefix = "model."
    learner.load_state_dict({n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)})
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{index}."):
                _, _, parameter, moment = name.split(".")
                state.setdefault(int(parameter), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def export(learner: Learner, progress: dict, target: Path) -> None:
    """Write backbone and class head as float16 safetensors with timm's names; metadata says how they came about."""
    weights = {name: value.half().contiguous() for name, value in learner.vit.state_dict().items()}
    metadata = {
        "name": "paretune_tiny",
        "architecture": ARCHITECTURE,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "data": {"generator": "scripts/drawn_classes.py", "version": VERSION, "seed": TRAIN_SEED},
        "images_seen": progress["images"],
        "held_out_accuracy": round(held_out_accuracy(learner), 4),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file(weights, target, text)
    target.chmod(0o644)  # safetensors writes for the owner alone
    print(f"wrote {target} ({target.stat().st_size / 1e6:.2f} MB): {json.dumps(metadata)}", flush=True)


def train(learner: Learner, optimizers: list, progress: dict, args: argparse.Namespace, checkpoint: Path) -> None:
    """Train until the time budget is spent, with a log line and a checkpoint about every minute."""
    # A resumed run draws from a fresh seed: the sequence so far is not drawn again.
    source = DrawnClasses(TRAIN_SEED + progress["images"])
    last = time.monotonic()
    noted = {"time": last, "images": progress["images"], "loss": 0.0, "steps": 0}
    while progress["seconds"] < args.minutes * 60:
        done = progress["seconds"] / (args.minutes * 60)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate_at(done)
        noted["loss"] += train_step(learner, optimizers, source, done, args)
        noted["steps"] += 1
        progress["images"] += args.batch
        now = time.monotonic()
        progress["seconds"] += now - last
        last = now
        if now - noted["time"] > args.log_every:
            report(learner, progress, noted, checkpoint)
            save_checkpoint(checkpoint, learner, optimizers, progress)
            noted = {"time": time.monotonic(), "images": progress["images"], "loss": 0.0, "steps": 0}
    save_checkpoint(checkpoint, learner, optimizers, progress)


def train_step(
    learner: Learner, optimizers: list, source: DrawnClasses, done: float, args: argparse.Namespace
) -> float:
    """Take one optimisation step and return its class loss."""
    drawn = source.batch(args.batch, difficulty=min(1.0, done / args.easy_until))
    keep = choose_patches(drawn.touched, args.patches) if done < args.sparse_until else None
    logits, pose = learner(normalise(drawn.images), keep)
    loss = F.cross_entropy(logits, drawn.labels, label_smoothing=0.05)
    (loss + args.pose_weight * F.smooth_l1_loss(pose, drawn.pose)).backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def report(learner: Learner, progress: dict, noted: dict, checkpoint: Path) -> None:
    """Append one line to the log: minutes, images, loss, held-out accuracy, throughput."""
    rate = (progress["images"] - noted["images"]) / (time.monotonic() - noted["time"])
    accuracy = held_out_accuracy(learner, 500)
    line = (
        f"minutes {progress['seconds'] / 60:6.1f}  images {progress['images']:8d}  "
        f"loss {noted['loss'] / noted['steps']:.3f}  held-out {accuracy:.3f}  images/s {rate:.0f}"
    )
    with open(checkpoint.with_name("log.txt"), "a") as log:
        print(line, file=log)
    print(line, flush=True)


def main() -> None:
    """Read the options, then train and export, or only export."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=80, help="wall-clock budget of training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="folder of checkpoint and log")
    parser.add_argument("--asset", type=Path, default=ASSET, help="where the exported weights go")
    parser.add_argument("--export-only", action="store_true", help="export the latest checkpoint and stop")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--patches", type=int, default=24, help="patches per image in the first part of the run")
    parser.add_argument("--sparse-until", type=float, default=0.65, help="part of the run that drops patches")
    parser.add_argument("--easy-until", type=float, default=0.25, help="part of the run over which difficulty rises")
    parser.add_argument("--pose-weight", type=float, default=0.5)
    parser.add_argument("--log-every", type=float, default=60, help="seconds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(TRAIN_SEED)
    learner = Learner()
    optimizers = optimizers_for(learner, args.lr, args.decay)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, progress = args.out / "checkpoint.safetensors", {"images": 0, "seconds": 0.0}
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, learner, optimizers)
    if not args.export_only:
        train(learner, optimizers, progress, args, checkpoint)
    export(learner, progress, args.asset)


if __name__ == "__main__":
    main()
