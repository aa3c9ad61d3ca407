"""Generative models: what is trained is seldom ``forward``, and most of it draws."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.trainings.batches import SAMPLES, VALIDATION, Data, images, loader, normal, tensors, whole
from zoo.trainings.training import Training


class LitAutoEncoder(pl.LightningModule):
    """As in Lightning's README: ``forward`` encodes, the training goes on to decode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(144, 48), nn.ReLU(), nn.Linear(48, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 144))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        x = x.view(x.size(0), -1)
        loss = F.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class VAE(pl.LightningModule):
    """No ``forward``; the distribution is drawn from, in validation too."""

    def __init__(self, latent: int = 6, beta: float = 0.1) -> None:
        super().__init__()
        self.beta = beta
        down = [nn.Conv2d(1, 12, 4, 2, 1), nn.BatchNorm2d(12), nn.LeakyReLU(0.2), nn.Conv2d(12, 16, 4, 2, 1)]
        self.encoder = nn.Sequential(*down, nn.LeakyReLU(0.2), nn.Flatten())
        self.mu, self.log_var = nn.Linear(144, latent), nn.Linear(144, latent)
        up = [nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 1, 4, 2, 1)]
        self.decoder = nn.Sequential(nn.Linear(latent, 144), nn.Unflatten(1, (16, 3, 3)), *up)

    def _run_step(self, x: Tensor) -> tuple[Tensor, Tensor, Any, Any]:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        q = torch.distributions.Normal(mu, torch.exp(log_var / 2))
        p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        z = q.rsample()
        return z, self.decoder(z), p, q

    def step(self, batch: Any, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        x, _ = batch
        _, x_hat, p, q = self._run_step(x)
        recon, kl = F.mse_loss(x_hat, x), torch.distributions.kl_divergence(q, p).mean() * self.beta
        return recon + kl, {"recon_loss": recon, "kl": kl}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logs = self.step(batch, batch_idx)
        self.log_dict({f"train_{k}": v for k, v in logs.items()}, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logs = self.step(batch, batch_idx)
        self.log_dict({f"val_{k}": v for k, v in logs.items()})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def generator(latent: int, pixels: int) -> nn.Sequential:
    layers = [nn.Linear(latent, 32), nn.LeakyReLU(0.2), nn.Linear(32, 64), nn.BatchNorm1d(64, 0.8), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(64, pixels), nn.Tanh())


class GAN(pl.LightningModule):
    """Two optimizers by hand; ``forward`` takes noise, and no image."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = generator(latent, 144)
        layers = [nn.Linear(144, 32), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(32, 1)]
        self.discriminator = nn.Sequential(nn.Flatten(), *layers)
        self.validation_z = torch.randn(8, latent)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z).view(-1, 1, 12, 12)

    def adversarial_loss(self, y_hat: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, batch: Any) -> None:
        imgs, _ = batch
        optimizer_g, optimizer_d = self.optimizers()
        z = torch.randn(imgs.shape[0], self.hparams.latent).type_as(imgs)
        valid, fake = torch.ones(imgs.size(0), 1).type_as(imgs), torch.zeros(imgs.size(0), 1).type_as(imgs)
        self.toggle_optimizer(optimizer_g)
        self.generated_imgs = self(z)
        g_loss = self.adversarial_loss(self.discriminator(self.generated_imgs), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        optimizer_g.step()
        optimizer_g.zero_grad()
        self.untoggle_optimizer(optimizer_g)
        self.toggle_optimizer(optimizer_d)
        real = self.adversarial_loss(self.discriminator(imgs), valid)
        d_loss = (real + self.adversarial_loss(self.discriminator(self(z).detach()), fake)) / 2
        self.manual_backward(d_loss)
        optimizer_d.step()
        optimizer_d.zero_grad()
        self.untoggle_optimizer(optimizer_d)

    def configure_optimizers(self) -> Any:
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
        return [opt_g, opt_d], []

    def on_train_epoch_end(self) -> None:
        self.samples = self(self.validation_z.type_as(self.generator[0].weight))


class CriticOfWGAN(pl.LightningModule):
    """The critic is stepped more often, and has a gradient penalty and spectral norms."""

    def __init__(self, latent: int = 8, n_critic: int = 3) -> None:
        super().__init__()
        self.automatic_optimization, self.latent, self.n_critic = False, latent, n_critic
        up = [nn.ConvTranspose2d(16, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(True)]
        first = [nn.Linear(latent, 144), nn.Unflatten(1, (16, 3, 3))]
        self.G = nn.Sequential(*first, *up, nn.ConvTranspose2d(12, 1, 4, 2, 1), nn.Tanh())
        convs = [spectral_norm(nn.Conv2d(1, 12, 4, 2, 1)), nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(12, 16, 4, 2, 1))]
        self.D = nn.Sequential(*convs, nn.LeakyReLU(0.2), nn.Flatten(), spectral_norm(nn.Linear(144, 1)))

    def forward(self, z: Tensor) -> Tensor:
        return self.G(z)

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        alpha = torch.rand(len(real), 1, 1, 1, device=real.device)
        mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        score = self.D(mixed)
        grad = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True, retain_graph=True)[0]
        return ((grad.flatten(1).norm(2, 1) - 1) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real, _ = batch
        opt_g, opt_d = self.optimizers()
        z = torch.randn(len(real), self.latent, device=self.device)
        with torch.no_grad():
            fake = self.G(z)
        loss = self.D(fake).mean() - self.D(real).mean() + 10 * self.penalty(real, fake)
        opt_d.zero_grad()
        self.manual_backward(loss)
        opt_d.step()
        if (batch_idx + 1) % self.n_critic == 0:
            opt_g.zero_grad()
            self.manual_backward(-self.D(self.G(z)).mean())
            opt_g.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), 1e-3, (0.0, 0.9)) for net in (self.G, self.D)]


class Residual(nn.Module):
    def __init__(self, width: int, emb: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, width), nn.Conv2d(width, width, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * width)
        self.norm2, self.conv2 = nn.GroupNorm(4, width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # so that it begins as an identity

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        scale, shift = self.emb(F.silu(t))[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return x + self.conv2(F.dropout(F.silu(h), 0.1, self.training))


class Denoiser(nn.Module):
    def __init__(self, width: int = 12, emb: int = 16) -> None:
        super().__init__()
        self.emb, self.time = emb, nn.Sequential(nn.Linear(emb, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.into, self.out = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(width, emb) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        w = torch.exp(-math.log(1e4) * torch.arange(self.emb // 2, device=x.device) / (self.emb // 2))
        t = self.time(torch.cat([(t[:, None] * w).sin(), (t[:, None] * w).cos()], 1))
        x = self.into(x)
        for block in self.blocks:
            x = block(x, t)
        return self.out(x)


class Diffusion(pl.LightningModule):
    """``forward`` draws noise and steps and returns the loss; an average of the network follows."""

    def __init__(self, steps: int = 50) -> None:
        super().__init__()
        self.steps, self.model = steps, Denoiser()
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.register_buffer("alpha_bar", torch.cumprod(1 - torch.linspace(1e-4, 0.05, steps), 0))

    def forward(self, x: Tensor, net: nn.Module | None = None) -> Tensor:
        t = torch.randint(0, self.steps, (len(x),), device=x.device)
        noise, a = torch.randn_like(x), self.alpha_bar[t].view(-1, 1, 1, 1)
        return F.mse_loss((net or self.model)(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self(batch[0])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_before_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        for a, p in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            a.data = 0.95 * a.data + 0.05 * p.data

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(batch[0], self.ema))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=2e-3)


@dataclass
class Patches:
    """A batch with a method."""

    pixels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


def collate_patches(samples: Any) -> Patches:
    return Patches(torch.stack([x for x, _ in samples]), torch.stack([i for _, i in samples]))


class MaskedAutoencoder(pl.LightningModule):
    """Sees a random quarter of the patches; ``forward`` returns the loss, the answer and the mask."""

    def __init__(self, width: int = 16, ratio: float = 0.75) -> None:
        super().__init__()
        self.ratio, self.embed = ratio, nn.Linear(9, width)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        layers = [nn.TransformerEncoderLayer(width, 2, 32, 0.1, batch_first=True, norm_first=True) for _ in range(3)]
        self.encoder, self.decoder = nn.ModuleList(layers[:2]), layers[2]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 9)

    def forward(self, batch: Patches) -> tuple[Tensor, Tensor, Tensor]:
        patches = F.unfold(batch.pixels, 3, stride=3).transpose(1, 2)
        n, count, _ = patches.shape
        kept = int(count * (1 - self.ratio))
        order = torch.rand(n, count, device=patches.device).argsort(1)
        back = order.argsort(1)
        x = self.embed(patches) + self.position
        x = x.gather(1, order[:, :kept, None].expand(-1, -1, x.shape[-1]))
        for layer in self.encoder:
            x = layer(x)
        x = torch.cat([self.norm(x), self.mask_token.expand(n, count - kept, -1)], 1)
        x = x.gather(1, back[..., None].expand(-1, -1, x.shape[-1])) + self.position
        pred, mask = self.head(self.decoder(x)), (back >= kept).float()
        return (((pred - patches) ** 2).mean(-1) * mask).sum() / mask.sum(), pred, mask

    def training_step(self, batch: Patches, batch_idx: int) -> Tensor:
        loss, _, _ = self(batch)
        self.log("loss", loss, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 2e-3, betas=(0.9, 0.95), weight_decay=0.05)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1.0, (epoch + 1) / 2))]


class Coupling(nn.Module):
    def __init__(self, dim: int, flip: bool) -> None:
        super().__init__()
        self.flip, half = flip, dim // 2
        self.net = nn.Sequential(nn.Linear(half, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, dim))

    def forward(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)[:: -1 if self.flip else 1]
        log_s, t = self.net(a).chunk(2, 1)
        log_s = torch.tanh(log_s)
        b = (b - t) * torch.exp(-log_s) if inverse else b * torch.exp(log_s) + t
        return torch.cat([a, b][:: -1 if self.flip else 1], 1), log_s.sum(1)


class Flow(pl.LightningModule):
    """``forward`` samples: it takes a number, and what is trained is the other direction."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(Coupling(dim, bool(i % 2)) for i in range(4))

    @torch.no_grad()
    def forward(self, num_samples: int) -> Tensor:
        z = torch.randn(num_samples, self.dim, device=self.device)
        for layer in reversed(self.layers):
            z, _ = layer(z, inverse=True)
        return z

    def log_prob(self, x: Tensor) -> Tensor:
        total: Any = 0.0
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return total - 0.5 * (x**2).sum(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] + torch.rand_like(batch[0]) / 8
        return -self.log_prob(x).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Codebook(nn.Module):
    """Moves its codes itself, while it trains."""

    def __init__(self, codes: int = 24, dim: int = 8, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("embed", torch.randn(codes, dim))
        self.register_buffer("size", torch.ones(codes))
        self.register_buffer("sum", self.embed.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        ids = torch.cdist(flat.float(), self.embed).argmin(1)
        if self.training:
            hot = F.one_hot(ids, len(self.embed)).type_as(flat)
            self.size.mul_(self.decay).add_(hot.sum(0), alpha=1 - self.decay)
            self.sum.mul_(self.decay).add_(hot.t() @ flat.detach(), alpha=1 - self.decay)
            self.embed.copy_(self.sum / (self.size + 1e-5)[:, None])
        n, c, h, w = z.shape
        q = self.embed[ids].view(n, h, w, c).permute(0, 3, 1, 2)
        return z + (q - z).detach(), F.mse_loss(z, q.detach())


class VQVAE(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        down = [nn.Conv2d(1, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1)]
        up = [nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)]
        self.enc, self.codebook, self.dec = nn.Sequential(*down), Codebook(), nn.Sequential(*up)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, commit = self.codebook(self.enc(x))
        return self.dec(z), commit

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] if isinstance(batch, (list, tuple)) else batch
        x_hat, commit = self(x)
        return F.mse_loss(x_hat, x) + 0.25 * commit

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Loss(nn.Module):
    """Compares what a frozen network makes of two images."""

    def __init__(self) -> None:
        super().__init__()
        vgg = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()]
        self.vgg = nn.Sequential(*vgg).eval()
        for p in self.vgg.parameters():
            p.requires_grad_(False)

    def gram(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return x @ x.transpose(1, 2) / x.shape[1] / x.shape[2]

    def forward(self, x: Tensor, content: Tensor, style: Tensor) -> Tensor:
        x, content, style = self.vgg(x), self.vgg(content), self.vgg(style)
        return F.mse_loss(x, content) + 10 * F.mse_loss(self.gram(x), self.gram(style).expand(len(x), -1, -1))


class StyleTransfer(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d(16, affine=True)
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(1, 16, 3), norm, nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
        up = [nn.InstanceNorm2d(16, affine=True), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(16, 1, 3, 2, 1)]
        self.transformer, self.criterion = nn.Sequential(*layers, *up), Loss()
        self.register_buffer("style", torch.randn(1, 1, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(x).clamp(-3, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        content, _ = batch
        return self.criterion(self(content), content, self.style)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.transformer.parameters(), 1e-3)


def grey(count: int = SAMPLES) -> Any:
    return tensors(images(count).mean(1, keepdim=True).tanh(), whole(4, count))


def patches() -> Any:
    x = images().mean(1, keepdim=True)
    return loader([(image, torch.tensor(i)) for i, image in enumerate(x)], collate_patches)


def both(module: Any, batch: Any) -> None:
    """The generator on noise, and the critic on what it makes: no step of a GAN can be run without its optimizers."""
    _, critic = module.children()
    critic(torch.cat([batch[0], module(torch.randn(len(batch[0]), 8))]))


ALL = SAMPLES + VALIDATION
NOISE: dict[str, Any] = {"forward": both}  # its forward takes noise, which no batch holds
CLIPPED: dict[str, Any] = {"gradient_clip_val": 1.0}
TRAININGS = [
    Training("autoencoder", "forward is half of what trains", LitAutoEncoder, lambda: loader(grey())),
    Training("vae", "no forward, draws in every step", VAE, lambda: Data(grey(ALL))),
    Training("gan", "two optimizers by hand, forward takes noise", GAN, lambda: loader(grey()), reflow=NOISE),
    Training("wgan_gp", "spectral norms, gradients of a gradient", CriticOfWGAN, lambda: loader(grey()), reflow=NOISE),
    Training("diffusion", "draws in forward, an average follows", Diffusion, lambda: Data(grey(ALL)), CLIPPED),
    Training("masked_autoencoder", "batches as dataclasses, random rows", MaskedAutoencoder, patches, CLIPPED),
    Training("flow", "forward takes a number", Flow, lambda: loader(tensors(normal(SAMPLES, 16)))),
    Training("vq_vae", "buffers that move in train mode", VQVAE, lambda: loader(grey())),
    Training("style_transfer", "a frozen network in the loss", StyleTransfer, lambda: loader(grey())),
]
